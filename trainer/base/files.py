"""All writing of files. What is replaced is there in full or not at all, also after a kill or a power cut.

Only records are appended: what a kill leaves, half a line perhaps, is cut off when the run resumes. What cannot be
written raises WriteError, and leaves nothing behind.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from advgame.trainer.base.errors import ConfigError, WriteError
from advgame.trainer.base.text import printable

REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EIO: "check the disk",
}
"""What helps against the failures that are the disk's, not ours."""

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) name an errno."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to, which then replaces `file`: a kill leaves the old file or the new one."""
    if file.is_dir():
        raise ConfigError(f"{file}: cannot be written, a folder is in its place; remove it")
    half = _hidden(file)
    with writing(file):
        try:
            yield half
            _flush(half)
            half.replace(file)
        finally:
            half.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Replaces the file, and makes its folder if need be."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as half:
        half.write_text(text, encoding="utf-8")


def append_record(file: Path, record: dict) -> None:
    """Adds a line of JSON, in full or not at all, which is on the disk when this returns."""
    line = memoryview((json.dumps(record) + "\n").encode())
    with writing(file), file.open("ab", buffering=0) as out:
        before = os.fstat(out.fileno()).st_size
        try:
            while line:  # a disk that fills up takes a part, and says so only when asked to take the rest
                line = line[out.write(line) :]
            os.fsync(out.fileno())
        except OSError:
            out.truncate(before)
            raise


def read_records(file: Path) -> list[dict]:
    """The complete lines of a JSONL file; none if it does not exist. Raises ConfigError that names a damaged line."""
    if not file.exists():
        return []
    *lines, _ = file.read_bytes().split(b"\n")  # behind the last end of a line is nothing, or what a kill left
    return [_record(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1)]


def truncate(file: Path, size: int) -> None:
    """Keeps the first `size` bytes of a file, if there is one."""
    if file.exists():
        with writing(file):
            os.truncate(file, size)


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Keeps other processes out. The file says who is in; its lock is the kernel's, and ends with the process.

    Raises ConfigError if another process is in: `busy`, and who it is. Warns where this cannot be known for sure.
    """
    here = os.uname().nodename
    try:
        opened = file.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror}); remove it") from error
    with opened as lock:
        lock.seek(0)
        last = printable(lock.read(200))  # whoever is in, or was killed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{busy}: {last or 'another process'}") from error
        except OSError as error:
            warnings.warn(f"{file} cannot be locked ({error.strerror}): let no other process write there", stacklevel=3)
        if not file.exists() or not os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            raise ConfigError(f"{busy}: a process that has ended just now")  # and has taken the file with it
        if last and f" on {here}," not in last:  # not every network file system tells other hosts of locks
            warnings.warn(f"{file} names {last}: if it is still running, stop one of the two", stacklevel=3)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {here}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
        lock.flush()
        try:
            yield
        finally:
            file.unlink()


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
    half = _hidden(folder)
    with writing(folder):
        for leftover in folder.parent.glob(f".{folder.name.split('-')[0]}*.tmp"):
            shutil.rmtree(leftover)
        half.mkdir(parents=True)
        try:
            yield half
            for path in [*half.rglob("*"), half]:
                _flush(path)
            shutil.rmtree(folder, ignore_errors=True)
            half.rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        _flush(folder.parent)


@contextmanager
def adding_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which then becomes `folder`, unless another process was faster."""
    with writing(folder):
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
    with writing(folder):
        shutil.rmtree(folder.rename(_hidden(folder)))


def free_space(path: Path) -> int:
    """Bytes that can still be written on the disk of a file or folder, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (path, *path.absolute().parents) if place.exists())).free


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns a failure that is the disk's into a WriteError: it names the target, whatever half of it failed."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or number not in REMEDIES:
            raise
        free = f", {free_space(target) / 2**20:.1f} MiB are free" if number == errno.ENOSPC else ""
        reason = f"{os.strerror(number)}{free}; {REMEDIES[number]}"
        raise WriteError(f"{target}: cannot be written: {reason}") from error


def _error_number(error: BaseException | None) -> int | None:
    """The errno behind a failure, whatever library reports it."""
    if isinstance(error, WriteError):
        return _error_number(error.__cause__)
    if isinstance(error, OSError):
        return error.errno
    found = OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def remove_empty(folder: Path) -> None:
    """Does nothing if something is in the folder."""
    with suppress(OSError):
        folder.rmdir()


def set_aside(folder: Path) -> None:
    """Renames a damaged folder, which is kept until the next of that name."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, so that a rename cannot overtake it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record(line: bytes, place: str) -> dict:
    with suppress(ValueError):
        if isinstance(record := json.loads(line.decode("utf-8")), dict):
            return record
    raise ConfigError(
        f"{place}: is damaged, no JSON object; start the run again to go back to its newest checkpoint, or remove this "
        f"line"
    )


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
