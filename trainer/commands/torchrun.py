"""What torchrun tells its processes, and is told by them. Needs no torch, so that --help is fast."""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from advgame.trainer.base import stopping
from advgame.trainer.base.errors import WriteError
from advgame.trainer.base.files import write_text

LOOKS = 1.0
"""Seconds between two looks at the launcher."""


def is_first() -> bool:
    """True in the process that talks to the user."""
    return os.environ.get("RANK", "0") == "0"


def report_failure(message: str) -> None:
    """Puts the reason into the report that torchrun ends with."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        report = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": int(time.time())}}
        with suppress(WriteError):  # which may be what is reported
            write_text(Path(file), json.dumps({"message": report}))


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code; one of torchrun's at once."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_at_once(code)
    sys.exit(code)


def end_at_once(code: int) -> NoReturn:
    """Ends a process of a group without the interpreter's clean-up: gloo's threads may let go of their last tensors
    while it is taken down, and then abort it (3 of 68 pairs of processes on busy cores)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_launcher() -> None:
    """A launcher that is killed cannot tell its processes: each sees for itself, and then stops as by SIGTERM."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch_launcher, args=[os.getppid()], daemon=True).start()


def _watch_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOKS)
    stopping.stop()
