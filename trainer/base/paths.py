"""Paths as users write them, which no file can have perhaps: a name of 300 characters, for example."""

from pathlib import Path


def to_path(text: str) -> Path:
    """`~` is the user's home folder, `~name` somebody else's; a name that nobody has stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder; none where there is no folder, or can be none of its name."""
    try:
        return sorted(path for path in folder.glob(pattern) if path.is_file())
    except (OSError, ValueError):
        return []
