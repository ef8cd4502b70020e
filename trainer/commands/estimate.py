"""Predicts what a run takes, from shapes alone: memory, traffic, work, time and energy. Nothing is loaded.

A prediction comes from a model of what the trainer holds and does. It is no measurement.
"""

import argparse
import dataclasses
import json

from rich.console import Console

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import make_folder, write_text
from advgame.trainer.base.paths import to_path
from advgame.trainer.settings.load import load_config

HELP = "predict what a run takes: memory, traffic, time and energy; nothing is loaded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, for example engine=zero")
    parser.add_argument("--config", metavar="FILE", action="append", help="as for training; default: demo")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, each with a GPU; default: 1")
    parser.add_argument(
        "--card",
        default="h100-80",
        metavar="NAME",
        help="a100-40, a100-80, h100-80 (the default), h200-141, b200-180, or cpu: this machine, without GPUs",
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of the card's peaks (FLOPs and bandwidths) that is reached; default: 0.4",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="mean length of a sample, for work and time; default: as long as each may be. Memory is for the longest",
    )
    parser.add_argument("--json", type=to_path, metavar="FILE", help="also write the prediction there, in bytes")


def run(options: argparse.Namespace) -> int:
    from advgame.trainer.estimate.cards import CARDS
    from advgame.trainer.estimate.plan import check_packs, shapes_of
    from advgame.trainer.estimate.predict import cures, predict
    from advgame.trainer.models.load import quiet
    from advgame.trainer.report.estimates import print_prediction

    check(options, list(CARDS))
    quiet()
    config, card = load_config(options.config, options.overrides), CARDS[options.card]
    check_packs(config)
    shapes = shapes_of(config)
    prediction = predict(config, shapes, options.gpus, card, options.efficiency, options.tokens)
    ways = [] if prediction.fits else cures(config, shapes, options.gpus, card)
    if options.json:
        record = dataclasses.asdict(prediction) | {
            "card": options.card,
            "efficiency": options.efficiency,
            "fits": prediction.fits,
            "peak": prediction.memory.peak,
            "would_fit": [{"gpus": gpus} | change for gpus, change in ways],
        }
        write_text(options.json, json.dumps(record, indent=2) + "\n")
    print_prediction(prediction, options.card, options.efficiency, ways, Console())
    return 0


def check(options: argparse.Namespace, cards: list[str]) -> None:
    """Raises ConfigError for an option that is out of range."""
    if options.card not in cards:
        raise ConfigError(f"--card {options.card}: unknown; one of {', '.join(cards)}")
    if not 1 <= options.gpus <= 1_000_000:
        raise ConfigError(f"--gpus {options.gpus}: must be between 1 and 1000000")
    if not 0 < options.efficiency <= 1:
        raise ConfigError(f"--efficiency {options.efficiency}: a share, in (0, 1]")
    if options.tokens is not None and options.tokens < 1:
        raise ConfigError(f"--tokens {options.tokens}: must be at least 1")
    if options.json:
        make_folder(options.json.parent, f"--json {options.json}")
        if options.json.is_dir():
            raise ConfigError(f"--json {options.json}: is a folder; name a file")
