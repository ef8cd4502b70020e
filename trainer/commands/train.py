"""The command line."""

import argparse
import dataclasses
import json
import os
import sys
import time
import typing
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from advgame.trainer import distributed
from advgame.trainer.config import Config, ConfigError, load_config
from advgame.trainer.console import warn_plainly

EPILOG = """examples:
  torchrun trainer/main.py                                  the demo: SmolLM2-135M against itself, on a CPU
  torchrun trainer/main.py --config tiny output_dir=runs/t  random weights, seconds
  torchrun trainer/main.py --config arena --config variants/ipo-md output_dir=runs/ipo
  torchrun --nproc-per-node=2 trainer/main.py steps=100 attacker.loss.beta=0.2
A run goes on where it stopped when it is started again with the same output_dir.
"""


class _Help(argparse.Action):
    """--help: the usage, then every setting."""

    def __call__(self, parser, *_):
        if distributed.is_first():
            print(parser.format_help())
            print("settings, as `name = default  (type)`:\n")
            _print_settings(Console())
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="torchrun trainer/main.py",
        description="Trains an attacker and a defender against each other.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, for example steps=20")
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="a YAML file, or a shipped one by name (default: demo); given again, it is laid over the ones before",
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole config as YAML and stop")
    parser.add_argument("-h", "--help", nargs=0, action=_Help, help="this, and every setting")
    options = parser.parse_intermixed_args(arguments)
    warn_plainly()
    try:
        config = load_config(options.config, options.overrides)
        if options.print_config:
            if distributed.is_first():
                print(OmegaConf.to_yaml(OmegaConf.structured(config)), end="")
            return 0
        from advgame.trainer.train import train  # imports transformers: slow, and not needed for --help

        distributed.start()
        try:
            train(config)
        finally:
            distributed.stop()
    except (ConfigError, FloatingPointError) as error:
        if distributed.is_first():
            print(f"error: {error}", file=sys.stderr)
        _tell_torchrun(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        if distributed.is_first():
            print("stopped; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 0


def _tell_torchrun(message: str) -> None:
    """torchrun closes with its own report of the failure: this puts the reason into it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        report = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": int(time.time())}}
        Path(file).write_text(json.dumps({"message": report}), encoding="utf-8")


def _print_settings(console: Console) -> None:
    for name, kind, default, doc in _settings(Config, ""):
        if kind:
            console.print(Text.assemble((name, "bold"), f" = {default}  ", (f"({kind})", "dim")), soft_wrap=True)
            console.print(Padding(Text(doc), (0, 0, 0, 4)))
        else:
            console.print(Text.assemble("\n", (name, "bold cyan"), f": {doc}"))


def _settings(kind: type, prefix: str):
    """(name, type, default, meaning) of every field; a section is a row without a type."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name, doc = hints[field.name], prefix + field.name, field.metadata["doc"]
        if dataclasses.is_dataclass(hint):
            yield name, "", "", doc
            yield from _settings(hint, f"{name}.")
        else:
            yield name, _type_name(hint), _default(field), doc


def _type_name(hint: typing.Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _default(field: dataclasses.Field) -> str:
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
