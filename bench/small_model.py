"""What a game of SmolLM2-135M against itself teaches, on held-out look-alikes and wrappings, over several seeds.

    python bench/small_model.py                            all of it; a finished run is not repeated
    python bench/small_model.py --arms joint --seeds 1
    python bench/small_model.py --files validation         of the same runs, on what settings are chosen on

The players of the demo play three games, each as long as `make learn`: joint training; with a frozen attacker; and in
turns, for as many steps. The last players are the means of the last checkpoints, as there. Every held-out seed is shown
to the first and the last defender as it is, in a held-out wrapping, and in an attack of the first and of the last
attacker. The judge's scores do not depend on what a response is compared with, so judging in pairs would be the same
game.

Then the first attacker and the last ones of joint training attack the first defender, the last ones, and SmolLM2-135M
as it was before it was taught anything. Each writes 4 attacks on each harmful seed; all targets answer the same ones.
"""

import argparse
import json
import multiprocessing
import os
import statistics
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.transfer import Matrix, averages, draw_matrix, print_matrix, transfer

from advgame.trainer.base.files import read_records
from advgame.trainer.commands.evaluate import measure
from advgame.trainer.measure.evaluation import read_held_out
from advgame.trainer.models.load import quiet
from advgame.trainer.records import Game
from advgame.trainer.run.average import average
from advgame.trainer.run.checkpoint import finished
from advgame.trainer.run.folder import AVERAGE, METRICS
from advgame.trainer.run.players import playing_models
from advgame.trainer.run.preflight import make_rules
from advgame.trainer.run.train import train
from advgame.trainer.settings.load import load_config

CONFIGS = ["demo", "variants/long"]
"""Those of `make learn`."""
ARMS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "attacker frozen": ("attacker.train=false",),
    "in turns": ("schedule=sequential", "steps_per_turn=5"),
}
"""Settings other than those."""
CHECKPOINTS = 3
"""As many are averaged, as in `make learn`."""
ATTACKS = 4
"""Of each attacker on each harmful seed, where attackers meet targets."""

MEASURES = {
    "harmful, held-out wrappings": ("written", "attack_success"),
    "harmful, plain": ("plain", "attack_success"),
    "harmful, first attacker": ("initial", "attack_success"),
    "harmful, last attacker": ("current", "attack_success"),
    "benign, held-out wrappings": ("written", "benign_compliance"),
    "benign, plain": ("plain", "benign_compliance"),
    "benign, last attacker": ("current", "benign_compliance"),
    "d′, held-out wrappings": ("written", "d_prime"),
    "d′, plain": ("plain", "d_prime"),
}
"""The part and the figure of an evaluation that each is: shares that the defender complied with, and d′."""


class Job(NamedTuple):
    """One run."""

    arm: str
    seed: int
    steps: int
    folder: Path
    files: str
    """What its players are measured on, as in the names of the data."""


def play_arm(job: Job) -> dict:
    """A run on one core, and what its players are like before and after."""
    result = job.folder / f"{job.files}.json"
    if not result.exists():
        torch.set_num_threads(1)
        last = job.folder / AVERAGE
        if not last.exists():
            job.folder.mkdir(parents=True, exist_ok=True)
            config = load_config(CONFIGS, settings_of(job))
            with (job.folder / "log.txt").open("a") as log, redirect_stdout(log):
                train(config)
            average(job.folder, finished(job.folder)[-CHECKPOINTS:], config)
        config = load_config(CONFIGS, [*settings_of(job), *measured_on(job)])
        after = measure(config, read_held_out(config.eval), last)
        seconds = sum(record["timing"]["seconds"] for record in read_records(job.folder / METRICS))
        ends = {name: {part: record[part] for part, _ in MEASURES.values()} for name, record in
                (("before", after["start"]), ("after", after))}  # fmt: skip
        told = {"arm": job.arm, "seed": job.seed, "steps": job.steps, "seconds": seconds} | ends
        result.write_text(json.dumps(told, indent=1))
    return json.loads(result.read_text())


def settings_of(job: Job) -> list[str]:
    """Of a run, which is measured once it is over."""
    return [
        f"seed={job.seed}",
        f"steps={job.steps}",
        f"output_dir={job.folder}",
        "eval.every=0",
        *ARMS[job.arm],
    ]


def measured_on(job: Job) -> list[str]:
    return [
        "eval.limit=null",
        f"eval.seeds=[players/look-alikes-{job.files}.jsonl]",
        f"eval.wrappings=[players/wrappings-{job.files}.jsonl]",
    ]


def transferred(jobs: list[Job], file: Path) -> Matrix:
    """Attackers in rows, targets in columns; kept in the file."""
    if not file.exists():
        config = load_config(CONFIGS, [*settings_of(jobs[0]), *measured_on(jobs[0])])
        saved = {f"seed {job.seed}": playing_models(job.folder / AVERAGE, config) for job in jobs}
        attackers, targets = {"first": config.attacker.model}, {"first": config.defender.model}
        for name, players in saved.items():
            attackers[name], targets[name] = map(str, players)
        targets["taught nothing"] = "smollm2-135m"
        seeds = read_held_out(config.eval).seeds
        matrix, _ = transfer(attackers, targets, seeds, make_rules(config), ATTACKS, frame)
        file.write_text(json.dumps(matrix, indent=1))
    return json.loads(file.read_text())


def frame(game: Game, attack: str) -> str:
    """The words around the query; the whole attack if the query is not in it word for word."""
    return attack.replace(game.seed.query, "")


def value(result: dict, when: str, name: str) -> float:
    shown, figure = MEASURES[name]
    part = result[when][shown][figure]
    return part["value"] if "value" in part else part["share"]


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def print_table(results: list[dict]) -> None:
    arms = list(dict.fromkeys(result["arm"] for result in results))
    runs = {arm: [result for result in results if result["arm"] == arm] for arm in arms}
    print(f"complied with, mean ± standard deviation of {len(runs[arms[0]])} runs of {results[0]['steps']} steps")
    table = Table()
    for column in ("", "before", *arms):
        table.add_column(column, justify="left" if not column else "right")
    for name in MEASURES:
        before = spread([value(result, "before", name) for result in results])
        table.add_row(name, before, *(spread([value(run, "after", name) for run in runs[arm]]) for arm in arms))
    table.add_row("minutes", "", *(spread([run["seconds"] / 60 for run in runs[arm]]) for arm in arms))
    Console(width=120).print(table)


def draw(results: list[dict], file: Path) -> None:
    """Before and after of each run, with intervals: of shares Wilson's, of d' by drawing seeds. There is no room for
    the last measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, (name, (shown, key)) in zip(figure.subplots(2, 4).flat, MEASURES.items(), strict=False):
        groups = [("before", "before", results[:1])] + [
            (arm, "after", [result for result in results if result["arm"] == arm])
            for arm in dict.fromkeys(result["arm"] for result in results)
        ]
        for place, (_, when, runs) in enumerate(groups):
            for i, run in enumerate(runs):
                part, known = run[when][shown][key], value(run, when, name)
                x = place + 0.2 * (i - (len(runs) - 1) / 2)
                ends = [known - part["low"]], [part["high"] - known]
                axes.errorbar(x, known, ends, fmt="o", color=f"C{place}", capsize=3)
        axes.set(title=name, xlim=(-0.5, len(groups) - 0.5), ylim=(-0.1, 3.1) if key == "d_prime" else (-0.03, 1.03))
        axes.set_xticks(range(len(groups)), [label.replace(" ", "\n") for label, *_ in groups], fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", help=f"beginnings of their names, with commas between; of {'; '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--steps", type=int, default=load_config(CONFIGS, []).steps, help="of each run")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs/small-model"), help="the runs are kept there")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/small-model.json"), help="the plot goes beside")
    parser.add_argument("--files", choices=("held-out", "validation"), default="held-out", help="what is measured on")
    options = parser.parse_args()
    chosen = [arm for arm in ARMS if options.arms is None or arm.startswith(tuple(options.arms.split(",")))]
    os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    quiet()
    jobs = [
        Job(arm, seed, options.steps, options.runs / f"{arm.replace(' ', '-')}-{options.steps}-{seed}", options.files)
        for seed in range(options.seeds)
        for arm in chosen
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        played = track(pool.imap_unordered(play_arm, jobs), "playing", total=len(jobs), console=Console(stderr=True))
        results = sorted(played, key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    report: dict = {"runs": results}
    print_table(results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    draw(results, options.json.with_suffix(".png"))
    if joint := [job for job in jobs if job.arm == "joint"]:
        told = options.runs / f"transfer-{options.files}-{options.steps}-{options.seeds}.json"
        matrix = transferred(joint, told)
        report |= {"matrix": matrix, "averages": averages(matrix)}
        print_matrix(matrix, Console(width=120))
        draw_matrix(matrix, options.json.with_stem(f"{options.json.stem}-transfer").with_suffix(".png"))
    options.json.write_text(json.dumps(report, indent=1))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
