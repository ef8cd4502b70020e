"""Trains an attacker and a defender against each other."""

import argparse

from advgame.trainer.base.stopping import listening
from advgame.trainer.commands.torchrun import end_with_launcher, is_first, report_failure
from advgame.trainer.settings.load import load_config, to_yaml

HELP = "train an attacker and a defender against each other"

EPILOG = """examples:
  advgame train                                     the demo: SmolLM2-135M against itself, on a CPU
  advgame train --config tiny output_dir=runs/t     random weights, seconds
  advgame train --config arena --config variants/ipo-md output_dir=runs/ipo
  torchrun --nproc-per-node=2 trainer/main.py steps=100 attacker.loss.beta=0.2
A run continues where it stopped if it is started again with the same output_dir.
Exit code 75: the judge's server was away for longer than judge.server.patience. All finished steps are saved.
"""


class _Help(argparse.Action):
    """--help: the usage, then every setting."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        if is_first():
            from rich.console import Console

            from advgame.trainer.commands.listing import print_settings

            print(parser.format_help())
            print_settings(Console())
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, for example steps=20")
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="a YAML file, or a shipped one by name (default: demo); later ones override earlier ones",
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole config as YAML and exit")
    parser.add_argument("-h", "--help", nargs=0, action=_Help, help="this, and every setting")


def run(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    if options.print_config:
        if is_first():
            print(to_yaml(config), end="")
        return 0
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.base import collectives
    from advgame.trainer.run.train import train

    with listening(tell=is_first()):
        end_with_launcher()
        collectives.start(report_failure)
        try:
            train(config)
        finally:
            collectives.stop()
    return 0
