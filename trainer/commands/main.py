"""advgame COMMAND … [key=value …]: one parser and one handler of errors for all commands."""

import argparse
import os
import re
import sys
import warnings

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.text import printable
from advgame.trainer.commands import crossplay, evaluate, redteam, train
from advgame.trainer.commands.torchrun import is_first, report_failure

COMMANDS = {"train": train, "evaluate": evaluate, "crossplay": crossplay, "redteam": redteam}
"""Each is a module with HELP, add_arguments(parser) and run(options), which returns the exit code."""

SETTING = re.compile(r"[a-z_]+(\.\w+)*=.*", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; exits if the arguments are wrong."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.formatwarning = lambda message, *_: f"warning: {printable(str(message))}\n"  # not the place in the code
    try:
        return COMMANDS[options.command].run(options)
    except (ConfigError, FloatingPointError) as error:
        _say(f"error: {error}")
        report_failure(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        if options.command == "train":
            _say("stopped; the same command continues from the newest checkpoint")
        return 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="advgame", description="Trains two language models against each other, and measures what comes of it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            conflict_handler="resolve",  # train has its own --help
        )
        command.add_arguments(own)
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """Whatever reads `name=value` is a setting, wherever it is; argparse would take it for an option's value."""
    options = make_parser().parse_args([argument for argument in arguments if not SETTING.fullmatch(argument)])
    options.overrides = [*options.overrides, *filter(SETTING.fullmatch, arguments)]
    return options


def _say(message: str) -> None:
    if is_first():
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
