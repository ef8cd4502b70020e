"""advgame COMMAND … [key=value …]"""

import argparse
import os
import re
import sys

from advgame.trainer.config import ConfigError
from advgame.trainer.console import warn_plainly
from advgame.trainer.tools import crossplay, evaluate, redteam

COMMANDS = {"evaluate": evaluate, "crossplay": crossplay, "redteam": redteam}
"""Each a module with HELP, add_arguments(parser) and run(options), which returns the exit code."""

SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="advgame", description="Measures what a run leaves behind.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.__doc__))
    given = sys.argv[1:] if arguments is None else arguments
    # Argparse takes no key=value behind an option, or takes it for one of the option's own values.
    options = parser.parse_args([argument for argument in given if not SETTING.fullmatch(argument)])
    options.overrides += [argument for argument in given if SETTING.fullmatch(argument)]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warn_plainly()
    try:
        return COMMANDS[options.command].run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
