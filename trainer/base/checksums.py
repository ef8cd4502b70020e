"""A folder's checksums, by which later damage is noticed. The file is `sha256sum`'s, which can check it too."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from advgame.trainer.base.files import write_text

MANIFEST = "SHA256SUMS"
BLOCK = 1 << 20


def write_manifest(folder: Path) -> None:
    """Lists the folder's files, which are not to change from now on."""
    sums = _checksums(_files(folder))
    write_text(folder / MANIFEST, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def damage(folder: Path, part: str = "") -> str | None:
    """What has changed since the manifest was written, in words that name the file; None if nothing has.

    part: a file or a folder in it, if the rest does not matter.
    """
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        files = _files(folder)
        missing, strange = sorted(listed.keys() - files.keys()), sorted(files.keys() - listed.keys())
        for name in filter(lambda name: _is_in(name, part), missing + strange):
            return f"{folder / name} {'is missing' if name in missing else f'is not in its {MANIFEST}'}"
        sums = _checksums({name: file for name, file in files.items() if _is_in(name, part)})
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return f"{folder / MANIFEST} or a file that it lists cannot be read ({error})"
    changed = [name for name, digest in sums.items() if digest != listed[name]]
    return f"{folder / changed[0]} is damaged: it is not as it was written" if changed else None


def checksum(file: Path, size: int | None = None) -> str:
    """SHA-256 of the file, or of its first `size` bytes."""
    digest = hashlib.sha256()
    left = file.stat().st_size if size is None else size
    with file.open("rb") as content:
        while block := content.read(min(left, BLOCK)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """By name within the folder, in order; without the manifest."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    files.pop(MANIFEST, None)
    return files


def _checksums(files: dict[str, Path]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter's lock
        return dict(zip(files, pool.map(checksum, files.values()), strict=True))


def _is_in(name: str, part: str) -> bool:
    return part in ("", name) or name.startswith(f"{part}/")
