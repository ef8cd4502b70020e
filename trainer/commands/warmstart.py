"""Teaches an attacker or a defender the game by examples, before it plays: a supervised start from files."""

import argparse

from advgame.trainer.base.stopping import listening
from advgame.trainer.commands.listing import add_settings
from advgame.trainer.settings.load import load_warmstart, to_yaml
from advgame.trainer.settings.schema import WarmstartConfig

HELP = "teach an attacker or a defender the game by examples, before it plays"

EPILOG = """examples:
  advgame warmstart output_dir=runs/defender                     SmolLM2-135M as a gullible defender
  advgame warmstart player=attacker output_dir=runs/attacker
  advgame warmstart --config mine.yaml model=path/to/a/model examples=4000
Then a game starts from RUN/model, for example advgame train defender.model=runs/defender/model.
A run continues where it stopped if it is started again with the same output_dir.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, WarmstartConfig, EPILOG, "a YAML file; later ones override earlier ones")


def run(options: argparse.Namespace) -> int:
    config = load_warmstart(options.config, options.overrides)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    # These import transformers: slow, and not needed for --help.
    from rich.console import Console

    from advgame.trainer.warmstart.run import warmstart

    with listening(tell=True):
        warmstart(config, Console())
    return 0
