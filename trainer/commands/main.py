"""advgame COMMAND … [key=value …]: one parser and one handler of errors for all commands."""

import argparse
import os
import re
import signal
import sys
import warnings

from advgame.trainer.base.errors import ConfigError, Outage, ServerWarning, Stopped
from advgame.trainer.base.text import printable
from advgame.trainer.commands import average, crossplay, estimate, evaluate, redteam, report, train, warmstart
from advgame.trainer.commands.torchrun import is_first, report_failure

COMMANDS = {
    "train": train,
    "warmstart": warmstart,
    "estimate": estimate,
    "evaluate": evaluate,
    "average": average,
    "crossplay": crossplay,
    "report": report,
    "redteam": redteam,
}
"""Each is a module with HELP, add_arguments(parser) and run(options), which returns the exit code."""

RESUMING = ("train", "warmstart")
"""The commands that save their work."""

OUTAGE = 75
"""The exit code when a server has been away for too long: that of sysexits.h for what may work later."""

INTERRUPTED = 128 + signal.SIGINT

EXIT_CODE_OF: dict[int, int] = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED}
"""By the signal that stopped a run. Batch systems send SIGTERM, and a run that has saved its work has not failed."""

CONTINUE = "; the same command continues from the newest checkpoint"

EXIT_CODES = """exit codes: 0 done, or saved and stopped by SIGTERM, 1 a gate's limit is exceeded, 2 something is wrong
with the input or the disk, 75 a judge's or a target's server did not answer for longer than its patience, 130
interrupted. torchrun has its own: 1 for all but 0."""

SETTING = re.compile(r"[a-z_]+(\.\w+)*=.*", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; exits if the arguments are wrong."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("always", ServerWarning)  # also when it says the same again
    warnings.formatwarning = lambda message, *_: f"warning: {printable(str(message))}\n"  # not the place in the code
    try:
        return COMMANDS[options.command].run(options)
    except (ConfigError, FloatingPointError) as error:
        _say(f"error: {error}")
        report_failure(f"error: {error}")
        return 2
    except Outage as error:
        _say(f"error: {error}{CONTINUE if options.command in RESUMING else ''}")
        report_failure(f"error: {error}")
        return OUTAGE
    except Stopped as signalled:
        _say(f"{signalled}{CONTINUE}")
        return EXIT_CODE_OF[signalled.number]
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="advgame",
        description="Trains two language models against each other, and measures what comes of it.",
        epilog=EXIT_CODES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            conflict_handler="resolve",  # train and warmstart have their own --help
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
