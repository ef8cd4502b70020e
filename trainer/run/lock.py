"""One run at a time writes to a folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.files import locked, make_folder, remove_empty
from advgame.trainer.run.folder import LOCK


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Makes the run's folder and keeps other runs out. Raises ConfigError, in every process, if one is in.

    A run that leaves nothing there leaves no folder either.
    """
    with ExitStack() as held:

        def enter() -> None:
            if not run.exists():
                held.callback(remove_empty, run)
            make_folder(run, f"output_dir={run}")
            busy = f"output_dir={run}: another run is writing there; wait for it, or choose another output_dir"
            held.enter_context(locked(run / LOCK, busy))

        collectives.from_first(enter)
        yield
