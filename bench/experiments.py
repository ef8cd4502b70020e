"""What the game's choices are worth: three experiments and two ablations on the arena, over several seeds.

    python bench/experiments.py                     all of it: 35 runs, about half an hour on 2 cores
    python bench/experiments.py --arms joint,sequential --seeds 2

1. Joint against sequential training, at as many updates of each player and at about as much time.
2. Pairwise against pointwise judging, by a judge whose scores carry an error shared by a call, and one of their own.
3. Attacks that nobody saw in training, for all of them; and without a trained attacker, and without moving averages.

Players are measured by the exact judge, on meanings and attacks that are held out. A finished run is not repeated.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.arena import FIRST, MEASURES, measure, play_run

from advgame.trainer.models.load import quiet

NOISY = ("judge.offset=4", "judge.noise=1")
ARMS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "sequential, equal updates": ("schedule=sequential", "steps_per_turn=50", "steps=500"),
    "sequential, equal time": ("schedule=sequential", "steps_per_turn=30", "steps=300"),
    "noisy judge, pairwise": NOISY,
    "noisy judge, pointwise": (*NOISY, "attacker.judge=pointwise", "defender.judge=pointwise"),
    "attacker frozen": ("attacker.train=false",),
    "no moving averages": tuple(
        f"{player}.{setting}"
        for player in ("attacker", "defender")
        for setting in ("sample_from=policy", "reference=recompute", "ema_decay=1")
    ),
}
"""Settings other than the arena's. Without averages the policies sample, and the first ones are references."""


def play_arm(job: tuple[str, int, Path]) -> dict:
    """One run, on one core, and how its players measure up."""
    arm, seed, folder = job
    result = folder / "result.json"
    if not result.exists():
        began = time.process_time()  # of the processor: other runs may share it
        players = play_run(folder, f"seed={seed}", *ARMS[arm])
        seconds = time.process_time() - began
        result.write_text(json.dumps({"arm": arm, "seed": seed, "seconds": seconds, **measure(players)}, indent=1))
    return json.loads(result.read_text())


def summary(results: list[dict]) -> dict[str, dict[str, list[float]]]:
    """arm -> measure -> [mean, standard deviation] over the seeds."""
    arms: dict[str, list[dict]] = {}
    for result in results:
        arms.setdefault(result["arm"], []).append(result)
    return {
        arm: {
            name: [
                statistics.mean(values) if values else math.nan,
                statistics.stdev(values) if len(values) > 1 else 0.0,
            ]
            for name in (*MEASURES, "seconds")
            for values in [[run[name] for run in runs if run[name] is not None]]
        }
        for arm, runs in arms.items()
    }


def print_table(arms: dict, before: dict[str, float], seeds: int) -> None:
    table = Table(title=f"arena, mean ± standard deviation over {seeds} seeds", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in (*MEASURES, "seconds of one core"):
        table.add_column(name, justify="right")
    table.add_row("before", *(f"{before[name]:.2f}" for name in MEASURES), "")
    for arm, values in arms.items():
        cells = [f"{values[name][0]:.2f} ± {values[name][1]:.2f}" for name in MEASURES]
        table.add_row(arm, *cells, f"{values['seconds'][0]:.0f}")
    Console(width=150).print(table)


def draw(arms: dict, before: dict[str, float], file: Path) -> None:
    """Bars with error bars; the dashed line is the first players' value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), layout="constrained")
    names = list(MEASURES)[:-1]
    for axes, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        means, deviations = zip(*(arms[arm][name] for arm in arms), strict=True)
        axes.bar(range(len(arms)), means, yerr=deviations, capsize=4, color=[f"C{i}" for i in range(len(arms))])
        axes.axhline(before[name], color="black", linestyle="--", linewidth=1)
        axes.set(title=f"{name}: {MEASURES[name]}", ylim=(0, 1.05))
        axes.set_xticks(range(len(arms)), [arm.replace(", ", ",\n") for arm in arms], fontsize=7, rotation=30)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", help=f"beginnings of their names, with commas between; of {'; '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each arm")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="the runs are kept there")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/experiments.json"), help="the plot goes beside")
    options = parser.parse_args()
    chosen = [arm for arm in ARMS if options.arms is None or arm.startswith(tuple(options.arms.split(",")))]
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet()
    before = measure(FIRST)  # also builds them, before several processes would
    jobs = [
        (arm, seed, options.runs / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}")
        for seed in range(options.seeds)
        for arm in chosen
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        runs = track(pool.imap_unordered(play_arm, jobs), "playing", total=len(jobs), console=Console(stderr=True))
        results = sorted(runs, key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    arms = summary(results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"before": before, "arms": arms, "runs": results}, indent=1))
    print_table(arms, before, options.seeds)
    draw(arms, before, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
