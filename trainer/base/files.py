"""Files that are there whole or not at all, and folders that are known to take them before any work."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advgame.trainer.config import ConfigError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it then becomes the file, so that a kill leaves the old one or the new one."""
    half = file.with_name(f".{file.name}.tmp")
    yield half
    flush(half)
    half.replace(file)


def write(file: Path, text: str) -> None:
    with replacing(file) as half:
        half.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, so that a rename cannot outrun it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, setting: str) -> None:
    """The folder that a setting names. Raises ConfigError where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write there ({error.strerror}); name another place") from error
