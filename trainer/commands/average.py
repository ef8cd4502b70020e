"""Writes the mean of the weights of a run's last checkpoints, as an attacker and a defender.

It costs no training, and is often better than the last checkpoint: what varies from step to step cancels. Measure both:
`advgame evaluate RUN` and `advgame evaluate RUN/average`.
"""

import argparse

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.paths import to_path
from advgame.trainer.run.folder import CONFIG
from advgame.trainer.settings.load import load_config

HELP = "the mean of the weights of a run's last checkpoints, as models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=to_path, metavar="RUN", help="the output_dir of a run with 2 checkpoints or more")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the run's")
    parser.add_argument("--last", type=int, default=3, metavar="N", help="how many checkpoints; default: 3")


def run(options: argparse.Namespace) -> int:
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.run.average import average
    from advgame.trainer.run.checkpoint import KEEP_MORE, check_run, check_whole, folder

    if options.last < 2:
        raise ConfigError(f"--last {options.last}: a mean is of 2 checkpoints or more")
    steps = check_run(options.run)
    if len(steps) < options.last:
        raise ConfigError(f"--last {options.last}: {options.run}/checkpoints has {len(steps)}; {KEEP_MORE}")
    steps = steps[-options.last :]
    for step in steps:
        check_whole(options.run, step)
    config = load_config(str(folder(options.run, steps[-1]) / CONFIG), options.overrides)
    written = average(options.run, steps, config)
    print(f"{written}: the mean of the checkpoints after {', '.join(map(str, steps))} steps")
    return 0
