"""advgame COMMAND … [key=value …]"""

import argparse
import os
import re
import sys

from advgame.trainer.config import ConfigError
from advgame.trainer.tools import crossplay

COMMANDS = {"crossplay": crossplay}
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command. `key=value` may stand anywhere and reaches it as options.overrides."""
    parser = argparse.ArgumentParser(prog="advgame", description="Measures what an AdvGame run leaves behind.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        epilog = "key=value, anywhere, sets what `torchrun trainer/main.py --help` lists"
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, epilog=epilog)
        module.add_arguments(command)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args([argument for argument in given if not SETTING.fullmatch(argument)])
    options.overrides = [argument for argument in given if SETTING.fullmatch(argument)]
    os.environ.setdefault("TQDM_DISABLE", "1")  # of the libraries; the commands show their own progress
    try:
        return COMMANDS[options.command].run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
