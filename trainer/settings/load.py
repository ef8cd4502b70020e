"""Settings from YAML files and `key=value` overrides."""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.paths import is_file, to_path
from advgame.trainer.base.text import one_line
from advgame.trainer.settings import plain
from advgame.trainer.settings.check import check, check_warmstart
from advgame.trainer.settings.schema import Config, Settings, WarmstartConfig, fields

S = TypeVar("S", bound=Settings)

CONFIGS = Path(__file__).parents[1] / "configs"
"""The shipped ones."""

_DEREFERENCED = "': "
"""Ends what OmegaConf says of text with `${` before it says what is wrong."""


def load_config(files: str | list[str] | None, overrides: list[str], schema: type[Config] = Config) -> Config:
    """Defaults, then YAML files in order (None: the shipped demo), then `key=value` overrides; all of it is checked.

    The config is one of `schema`.
    """
    loaded = _load([files] if isinstance(files, str) else files or ["demo"], overrides, schema)
    check(loaded)
    return loaded


def load_warmstart(files: list[str] | None, overrides: list[str]) -> WarmstartConfig:
    """As `load_config`, for `advgame warmstart`; without files the defaults are those of a defender."""
    loaded = _load(files or [], overrides, WarmstartConfig)
    check_warmstart(loaded)
    return loaded


def _load(files: list[str], overrides: list[str], schema: type[S]) -> S:
    config = OmegaConf.structured(schema)
    for file in files:
        config = _merge(config, read_stored(resolve_config(file)), file)
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r}: expected key=value, for example seed=20")
        config = _merge(config, _read_override(override), "command line")
    try:
        loaded = cast(S, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error).split(_DEREFERENCED)[-1]}") from error
    for name, f, value in fields(loaded):
        if isinstance(value, list) and not all(isinstance(entry, get_args(f.type)) for entry in value):
            raise ConfigError(f"{name}={value!s:.80}: each entry must be a single value, as in [a, b]")
    return loaded


def resolve_config(name: str) -> Path:
    """A path to a YAML file, or the name of a shipped config, such as `tiny` or `variants/ipo`."""
    for path in (to_path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if is_file(path):
            return path
    raise ConfigError(f"--config {name}: no such file; shipped configs are {', '.join(shipped_configs())}")


def shipped_configs(folder: str = "") -> list[str]:
    """Names of the shipped configs, those in subfolders last."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in (CONFIGS / folder).rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def to_yaml(config: Settings) -> str:
    """Every setting, as a file that load_config reads."""
    return plain.write(to_dict(config))


def to_dict(config: Settings) -> dict:
    """Every setting, as nested dicts."""
    return dataclasses.asdict(config)


def read_stored(path: Path) -> dict:
    """A file that `to_yaml` wrote, as nested dicts, unchecked."""
    try:
        loaded = plain.parse(path.read_text(encoding="utf-8"))
    except Exception as error:  # a YAML parser raises its own family of errors
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error
    if not isinstance(loaded, dict | None):
        raise ConfigError(f"{path}: not a mapping of settings; its lines must read `name: value`")
    return loaded or {}


def _read_override(override: str) -> dict:
    name, _, text = override.partition("=")
    try:
        value = plain.parse(text)
    except Exception as error:  # as above
        raise ConfigError(f"{override!r:.80}: the value is not valid YAML: {one_line(error)}") from error
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def _literal(value: Any) -> Any:
    """Escaped, so that OmegaConf takes `${…}` as it is written: it would put in other settings, or the environment."""
    if isinstance(value, dict):
        return {name: _literal(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_literal(entry) for entry in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _merge(config: Any, settings: dict, origin: str) -> Any:
    update: Any = None
    defaults = cast(type[Settings], OmegaConf.get_type(config))()
    _check_forms(settings, defaults, origin)
    try:
        update = OmegaConf.create(_literal(settings))
        if missing := OmegaConf.missing_keys(update):
            raise ConfigError(f"{origin}: {min(missing)}: ??? is not a value; leave the setting out for its default")
        return OmegaConf.merge(config, update)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        message = ": ".join(filter(None, (origin, name, _first_line(error))))
        if close := _closest(name, update, defaults):
            message = f"{message.split('. Did you mean')[0]}; did you mean {close}?"
        raise ConfigError(message) from error
    except (TypeError, OverflowError) as error:  # a number that no float can be
        given = one_line(settings)[:80]
        raise ConfigError(f"{origin}: {given!r} is not of the form of the settings; see --print-config") from error


def _check_forms(settings: dict, defaults: Any, origin: str, section: str = "") -> None:
    """Raises ConfigError for a value in the place of a section, of a list or of a mapping."""
    for key, value in settings.items():
        default, name = getattr(defaults, str(key), None), f"{section}{key}"
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                example = f"{name}.{dataclasses.fields(default)[0].name}"
                raise ConfigError(f"{origin}: {name}={value!s:.80}: is a section; set what is in it, as in {example}")
            _check_forms(value, default, origin, f"{name}.")
        elif isinstance(default, list) and not isinstance(value, list):
            raise ConfigError(f"{origin}: {name}={value!s:.80}: expected a list, as in [a, b]")
        elif isinstance(default, dict) and not isinstance(value, dict):
            raise ConfigError(f"{origin}: {name}={value!s:.80}: expected a mapping, as in {{name: value}}")


def _closest(name: str, update: Any, defaults: Settings) -> str | None:
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
    return str(error).splitlines()[0][:300]
