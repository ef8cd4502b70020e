"""The files of records in a run's folder: a checkpoint knows what they held, and a run that resumes needs it again."""

import warnings
from pathlib import Path

from advgame.trainer.base.checksums import checksum
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import truncate
from advgame.trainer.run.folder import EVALUATIONS, INITIAL_ATTACKS, METRICS

Records = dict[str, tuple[int, str]]
"""Size and checksum, by the file's name."""


def survey(run: Path) -> Records:
    """The records as they are."""
    files = [run / name for name in (METRICS, EVALUATIONS, INITIAL_ATTACKS) if (run / name).exists()]
    return {file.name: (file.stat().st_size, checksum(file)) for file in files}


def check_records(run: Path, records: Records) -> None:
    """Raises ConfigError unless the files begin with these records. Only metrics, which nothing needs, may be gone."""
    for name, (size, digest) in records.items():
        file, restart = run / name, "choose another output_dir to start again"
        seen = None if name == INITIAL_ATTACKS else size  # nothing is ever added to it
        if not file.exists() and name == METRICS:
            warnings.warn(f"{file} is missing: metrics and curves begin anew", stacklevel=2)
        elif not file.exists():
            raise ConfigError(
                f"{file} is missing, which later evaluations are compared with; put it back to continue, or {restart}"
            )
        elif not file.is_file() or checksum(file, seen) != digest:
            remedy = "remove it to do without" if name == METRICS else restart
            raise ConfigError(f"{file} is damaged: what the checkpoint saw has changed; put it back, or {remedy}")


def rewind(run: Path, records: Records) -> None:
    """Cuts the files back to these records: what follows is of steps that no checkpoint has."""
    for name in (METRICS, EVALUATIONS):
        truncate(run / name, records[name][0] if name in records else 0)
