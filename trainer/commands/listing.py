"""The arguments of commands that take settings, and the list of all settings, for --help."""

import argparse
import dataclasses
import typing
from collections.abc import Iterator

from advgame.trainer.commands.torchrun import is_first
from advgame.trainer.settings.schema import Settings

if typing.TYPE_CHECKING:  # slow, and needed for --help only
    from rich.console import Console


class _Help(argparse.Action):
    """--help: the usage, then every setting."""

    def __init__(self, schema: type[Settings], **options: typing.Any):
        super().__init__(nargs=0, **options)
        self._schema = schema

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        if is_first():
            from rich.console import Console

            print(parser.format_help())
            print_settings(self._schema(), Console())
        parser.exit()


def add_settings(parser: argparse.ArgumentParser, schema: type[Settings], epilog: str, config: str) -> None:
    """Arguments of a command that takes the settings of `schema`. config: the help of --config."""
    parser.epilog, parser.formatter_class = epilog, argparse.RawDescriptionHelpFormatter
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, for example seed=1")
    parser.add_argument("--config", metavar="FILE", action="append", help=config)
    parser.add_argument("--print-config", action="store_true", help="print the whole config as YAML and exit")
    parser.add_argument("-h", "--help", action=_Help, schema=schema, help="this, and every setting")


def print_settings(defaults: Settings, console: "Console") -> None:
    """Every setting with its type, default and meaning."""
    from rich.padding import Padding
    from rich.text import Text

    console.print("settings, as `name = default  (type)`:\n", markup=False)
    for name, kind, default, doc in _settings(defaults, ""):
        if kind:
            console.print(Text.assemble((name, "bold"), f" = {default}  ", (f"({kind})", "dim")), soft_wrap=True)
            console.print(Padding(Text(doc), (0, 0, 0, 4)))
        else:
            console.print(Text.assemble("\n", (name, "bold cyan"), f": {doc}"))


def _settings(section: typing.Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of every field; a section has no type."""
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value, name, doc = getattr(section, field.name), prefix + field.name, field.metadata["doc"]
        if dataclasses.is_dataclass(value):
            yield name, "", "", doc
            yield from _settings(value, f"{name}.")
        else:
            yield name, _type_name(hints[field.name]), _shown(value), doc


def _type_name(hint: typing.Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _shown(value: typing.Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
