"""Every setting with its type, default and meaning, for --help."""

import dataclasses
import typing
from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from advgame.trainer.settings.schema import Config


def print_settings(console: Console) -> None:
    console.print("settings, as `name = default  (type)`:\n", markup=False)
    for name, kind, default, doc in _settings(Config, ""):
        if kind:
            console.print(Text.assemble((name, "bold"), f" = {default}  ", (f"({kind})", "dim")), soft_wrap=True)
            console.print(Padding(Text(doc), (0, 0, 0, 4)))
        else:
            console.print(Text.assemble("\n", (name, "bold cyan"), f": {doc}"))


def _settings(kind: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of every field; a section has no type."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name, doc = hints[field.name], prefix + field.name, field.metadata["doc"]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield name, "", "", doc
            yield from _settings(hint, f"{name}.")
        else:
            yield name, _type_name(hint), _default(field), doc


def _type_name(hint: typing.Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _default(field: dataclasses.Field) -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
