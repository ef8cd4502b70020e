"""Plays every saved attacker of a run against every saved defender: tables, a heat map, JSON and a reading."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.text import Text

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import make_folder, write_text
from advgame.trainer.base.paths import to_path
from advgame.trainer.run.folder import CONFIG, CROSSPLAY, PAYOFF
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

if TYPE_CHECKING:  # it imports transformers: slow, and not needed for --help
    from advgame.trainer.measure.payoff import SavedPlayers

HELP = "every saved attacker of a run against every saved defender"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=to_path, metavar="RUN", help="the output_dir of a run with 2 checkpoints or more")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the run's")
    parser.add_argument("--out", type=to_path, metavar="DIR", help="default: RUN/crossplay")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N seeds; default: the run's eval.limit")


def run(options: argparse.Namespace) -> int:
    from advgame.trainer.measure.evaluation import measuring
    from advgame.trainer.measure.payoff import play_matrix
    from advgame.trainer.measure.reading import reading
    from advgame.trainer.models.load import quiet
    from advgame.trainer.run.checkpoint import folder
    from advgame.trainer.run.preflight import make_rules
    from advgame.trainer.seeds import limited, read_seeds

    steps = check_checkpoints(options.run)
    limit = [] if options.limit is None else [f"eval.limit={options.limit}"]
    config = load_config(str(folder(options.run, steps[-1]) / CONFIG), [*options.overrides, *limit])
    saved = saved_players(options.run, steps, config)
    files = config.eval.seeds or config.seeds.files
    seeds = limited(read_seeds(files), config.eval.limit)
    quiet()
    rules = measuring(make_rules(config), config.eval.greedy)
    out = options.out or options.run / CROSSPLAY
    make_folder(out, f"--out {out}")

    progress = Console(stderr=True)
    payoff = play_matrix(
        saved, seeds, rules, (config.seed, "crossplay"), lambda players, title: track(players, title, console=progress)
    )
    notes = reading(payoff)
    if not config.eval.seeds:
        notes.append(f"These are the seeds that the run was trained on ({', '.join(files)}): eval.seeds names none.")
    record = {"run": str(options.run), "seed_files": files, **dataclasses.asdict(payoff), "reading": notes}
    write_text(out / PAYOFF, json.dumps(record, indent=1))
    show(record, out)
    return 0


def check_checkpoints(run: Path) -> list[int]:
    """The steps of the run's checkpoints. Raises ConfigError if one is damaged, or if there are too few to compare."""
    from advgame.trainer.run.checkpoint import KEEP_MORE, check_run, check_whole

    steps = check_run(run)
    if len(steps) < 2:
        raise ConfigError(
            f"{run}/checkpoints has {len(steps)} checkpoint(s), and crossplay needs 2 or more; {KEEP_MORE}"
        )
    for step in steps:
        check_whole(run, step)
    return steps


def saved_players(run: Path, steps: list[int], config: Config) -> "list[SavedPlayers]":
    """Those that the run began with, and those after these steps."""
    from advgame.trainer.measure.payoff import SavedPlayers
    from advgame.trainer.run.checkpoint import folder
    from advgame.trainer.run.players import playing_models

    start = SavedPlayers(0, config.attacker.model, config.defender.model)
    return [start, *(SavedPlayers(step, *playing_models(folder(run, step), config)) for step in steps)]


def show(payoff: dict, out: Path) -> None:
    """Draws and prints the matrices of payoff.json, and says what they mean and where they are."""
    from advgame.trainer.report.matrices import matrices
    from advgame.trainer.report.plots import draw_matrices
    from advgame.trainer.report.tables import print_matrix

    console, steps, shown = Console(), payoff["steps"], matrices(payoff)
    drawn = draw_matrices(shown, steps, out / "payoff.png")
    for title, matrix in shown.items():
        print_matrix(title, matrix, steps, console)
    files = f"files    {out}/payoff.{{json,png}}" if drawn else f"file     {out}/payoff.json"
    console.print(Text("\n".join([*payoff["reading"], files])), soft_wrap=True)
