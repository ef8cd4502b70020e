"""Trains an attacker and a defender against each other."""

import argparse

from advgame.trainer.base.stopping import listening
from advgame.trainer.commands.listing import add_settings
from advgame.trainer.commands.torchrun import end_with_launcher, is_first, report_failure
from advgame.trainer.settings.load import load_config, to_yaml
from advgame.trainer.settings.schema import Config

HELP = "train an attacker and a defender against each other"

EPILOG = """examples:
  advgame train                                     the demo: SmolLM2-135M against itself, on a CPU
  advgame train --config tiny output_dir=runs/t     random weights, seconds
  advgame train --config arena --config variants/ipo-md output_dir=runs/ipo
  torchrun --nproc-per-node=2 trainer/main.py steps=100 attacker.loss.beta=0.2
A run continues where it stopped if it is started again with the same output_dir.
Exit code 75: the judge's server was away for longer than judge.server.patience. All finished steps are saved.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = "a YAML file, or a shipped one by name (default: demo); later ones override earlier ones"
    add_settings(parser, Config, EPILOG, files)


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
