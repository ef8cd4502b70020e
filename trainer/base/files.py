"""All writing of files. What is replaced is there in full or not at all, also after a kill or a power cut.

Only records are appended: a kill may leave half a line, which `truncate_records` removes on a resume.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advgame.trainer.base.errors import ConfigError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to, which then replaces `file`: a kill leaves the old file or the new one."""
    half = _hidden(file)
    yield half
    _flush(half)
    half.replace(file)


def write_text(file: Path, text: str) -> None:
    """Replaces the file, and makes its folder if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as half:
        half.write_text(text, encoding="utf-8")


def append_record(file: Path, record: dict) -> None:
    """Adds a line of JSON."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def read_records(file: Path) -> list[dict]:
    """The complete lines of a JSONL file; none if it does not exist."""
    return [json.loads(line) for line in _complete_lines(file)] if file.exists() else []


def truncate_records(file: Path, step: int) -> None:
    """Keeps the records of steps up to `step`. Later ones, and half a line at the end, are left from a killed run."""
    if file.exists():
        write_text(file, "".join(line for line in _complete_lines(file) if json.loads(line)["step"] <= step))


def make_folder(folder: Path, setting: str) -> None:
    """Makes the folder that a setting names. Raises ConfigError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write there ({error.strerror}); name another place") from error


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which then replaces `folder`; what killed processes left behind is removed."""
    for leftover in folder.parent.glob(f".{folder.name.split('-')[0]}-*.tmp"):
        shutil.rmtree(leftover)
    half = _hidden(folder)
    half.mkdir(parents=True)
    yield half
    for path in [*half.rglob("*"), half]:
        _flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    _flush(folder.parent)


@contextmanager
def adding_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which then becomes `folder`, unless another process was faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield half
        try:
            half.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Hides the folder first, so that nobody takes half a folder for a whole one."""
    shutil.rmtree(folder.rename(_hidden(folder)))


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, so that a rename cannot overtake it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete_lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
