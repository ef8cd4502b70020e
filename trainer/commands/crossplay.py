"""Plays every saved attacker of a run against every saved defender: tables, a heat map, JSON and a reading."""

import argparse
import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table
from rich.text import Text

from advgame.trainer.config import ConfigError, load_config
from advgame.trainer.outputs import make_folder, write
from advgame.trainer.plots import draw_matrices

HELP = "every saved attacker of a run against every saved defender"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the output_dir of a run that kept 2 checkpoints or more")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the run's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/crossplay")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many seeds; default: the run's eval.limit")


def run(options: argparse.Namespace) -> int:
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.models import quiet
    from advgame.trainer.payoff import play_matrix, reading, saved_steps
    from advgame.trainer.prompts import Prompts
    from advgame.trainer.seeds import limited, read_seeds
    from advgame.trainer.train import make_judge

    stored = options.run / "config.yaml"
    if not stored.is_file():
        raise ConfigError(f"{options.run}: not a run, it has no config.yaml; give the output_dir of one")
    limit = [] if options.limit is None else [f"eval.limit={options.limit}"]
    config = load_config(str(stored), [*options.overrides, *limit])
    steps = saved_steps(options.run)
    files = config.eval.seeds or config.seeds.files
    seeds = limited(read_seeds(files), config.eval.limit)
    prompts = Prompts(config.templates)
    quiet()

    console, progress = Console(), Console(stderr=True)
    judge = make_judge(config, prompts)
    out = options.out or options.run / "crossplay"
    make_folder(out, f"--out {out}")
    payoff = play_matrix(
        options.run, steps, seeds, judge, prompts, config, lambda steps, name: track(steps, name, console=progress)
    )
    notes = reading(payoff)
    if not config.eval.seeds:
        notes.append(f"These are the seeds that the run was trained on ({', '.join(files)}): eval.seeds names none.")

    record = {"run": str(options.run), "seed_files": files, **dataclasses.asdict(payoff), "reading": notes}
    write(out / "payoff.json", json.dumps(record, indent=1))
    matrices = {
        f"attack success on {payoff.harmful} harmful seeds": payoff.attack_success,
        f"compliance on {payoff.benign} benign seeds": payoff.benign_compliance,
    }
    drawn = draw_matrices(matrices, steps, out / "payoff.png")
    for title, matrix in matrices.items():
        show(console, title, matrix, steps)
    lines = [*notes, f"files    {out}/payoff.{{json,png}}" if drawn else f"file     {out}/payoff.json"]
    console.print(Text("\n".join(lines)), soft_wrap=True)
    return 0


def show(console: Console, title: str, matrix: list[list[float | None]], steps: list[int]) -> None:
    """A table that is as wide as it must be: a figure that is cut is none."""
    table = Table()
    table.add_column("step", justify="right", style="bold")
    for step in steps:
        table.add_column(str(step), justify="right")
    for step, row in zip(steps, matrix, strict=True):
        table.add_row(str(step), *("–" if value is None else f"{value:.0%}" for value in row))
    whole = Measurement.get(console, console.options.update(max_width=1_000_000), table).maximum
    console.width = max(console.width, whole)
    console.print(Text(f"{title}: attackers down, defenders across, by their step", "bold"), soft_wrap=True)
    console.print(table)
