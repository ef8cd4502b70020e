"""Writes the page of a run, report.html: before and after, curves, samples, payoff, resources, settings."""

import argparse

from advgame.trainer.base.paths import to_path
from advgame.trainer.run.folder import CONFIG
from advgame.trainer.settings.load import load_config

HELP = "a run as a page for the browser, report.html in its folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=to_path, metavar="RUN", help="the output_dir of a run, finished or not")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the run's")


def run(options: argparse.Namespace) -> int:
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.run.checkpoint import check_run
    from advgame.trainer.run.page import write_report

    check_run(options.run)
    print(write_report(options.run, load_config(str(options.run / CONFIG), options.overrides)))
    return 0
