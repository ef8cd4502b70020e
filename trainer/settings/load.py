"""Settings from YAML files and `key=value` overrides."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.text import one_line
from advgame.trainer.settings.check import check
from advgame.trainer.settings.schema import Config, fields

CONFIGS = Path(__file__).parents[1] / "configs"
"""The shipped ones."""


def load_config(files: str | list[str] | None, overrides: list[str], schema: type[Config] = Config) -> Config:
    """Defaults, then YAML files in order (None: the shipped demo), then `key=value` overrides; all of it is checked.

    The config is one of `schema`.
    """
    config = OmegaConf.structured(schema)
    for file in [files] if isinstance(files, str) else files or ["demo"]:
        config = _merge(config, _read_yaml(resolve_config(file)), file)
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r}: expected key=value, for example steps=20")
        config = _merge(config, _read_override(override), "command line")
    try:
        loaded = cast(Config, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    check(loaded)
    return loaded


def resolve_config(name: str) -> Path:
    """A path to a YAML file, or the name of a shipped config, such as `tiny` or `variants/ipo`."""
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"--config {name}: no such file; shipped configs are {', '.join(shipped_configs())}")


def shipped_configs(folder: str = "") -> list[str]:
    """Names of the shipped configs, those in subfolders last."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in (CONFIGS / folder).rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def to_yaml(config: Config) -> str:
    """Every setting, as a file that load_config reads."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_dict(config: Config) -> dict:
    """Every setting, as nested dicts."""
    return cast(dict, OmegaConf.to_container(OmegaConf.structured(config)))


def read_stored(path: Path) -> dict:
    """A file that `to_yaml` wrote, as nested dicts, unchecked."""
    return cast(dict, OmegaConf.to_container(_read_yaml(path)))


def _read_yaml(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # a YAML parser raises its own family of errors
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error
    if not OmegaConf.is_dict(loaded):
        raise ConfigError(f"{path}: not a mapping of settings; its lines must read `name: value`")
    return loaded


def _read_override(override: str) -> Any:
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # as above
        raise ConfigError(f"{override!r}: the value is not valid YAML: {one_line(error)}") from error


def _merge(config: Any, update: Any, origin: str) -> Any:
    try:
        return OmegaConf.merge(config, update)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        message = ": ".join(filter(None, (origin, name, _first_line(error))))
        if close := _closest(name, update, cast(type[Config], OmegaConf.get_type(config))()):
            message = f"{message.split('. Did you mean')[0]}; did you mean {close}?"
        raise ConfigError(message) from error
    except TypeError as error:  # a list in the place of a section, or the other way round
        given = one_line(OmegaConf.to_yaml(update))[:80]
        raise ConfigError(f"{origin}: {given!r} is not of the form of the settings; see --print-config") from error


def _closest(name: str, update: Any, defaults: Config) -> str | None:
    """The closest match of an unknown name, or of a value that is not one of the choices."""
    known = {known: f for known, f, _ in fields(defaults)}
    if name in known:
        choices = [choice for choice in _choices(known[name]) if isinstance(choice, str)]
        value = OmegaConf.select(update, name) if OmegaConf.is_dict(update) else None
        close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
        return f"{name}={close[0]}" if close else None
    leaf = name.rsplit(".", 1)[-1]
    same_leaf = [path for path in known if path.rsplit(".", 1)[-1] == leaf]
    paths = same_leaf or [*known, *(f.name for f in dataclasses.fields(defaults))]
    by_path = difflib.get_close_matches(name, paths, n=1, cutoff=0.0 if same_leaf else 0.75)
    if by_path:
        return by_path[0]
    leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(known)}
    by_leaf = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
    return leaves[by_leaf[0]] if by_leaf else None


def _choices(f: dataclasses.Field) -> tuple:
    return get_args(f.type) if get_origin(f.type) is Literal else ()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
