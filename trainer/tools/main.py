"""advgame COMMAND …, also as python -m advgame.trainer.tools.main"""

import argparse
import os
import sys

from advgame.trainer.config import ConfigError
from advgame.trainer.tools import evaluate

COMMANDS = {"evaluate": evaluate}
"""Each a module with HELP, add_arguments(parser) and run(options), which returns the exit code."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        return COMMANDS[options.command].run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="advgame", description="Commands for what a run leaves behind.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    options, left = parser.parse_known_args(arguments)
    if left and (not hasattr(options, "overrides") or any("=" not in item or item[0] == "-" for item in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:  # argparse takes no key=value that stands behind an option
        options.overrides += left
    return options


if __name__ == "__main__":
    sys.exit(main())
