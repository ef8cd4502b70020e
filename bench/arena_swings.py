"""Does the payoff swing in a long game of the arena, and what damps it?

    python bench/arena_swings.py                       six games of 1,000 steps, on one core
    python bench/arena_swings.py --arms shipped --steps 2000 --seeds 3

The curve is the success of the current attacker on the current defender in the games themselves, by the exact judge;
a point is of 20 steps, which have 1,280 attacks on harmful seeds. Every 50 steps the players are measured on what is
held out, too. A swing is a way from above a band around the curve's mean to below it, or back: mean ± 0.05. Means,
deviations and swings leave out the first 240 steps, the arena's usual game, in which the attacker becomes what it is.
"""

import argparse
import json
import statistics
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.arena import play_run

from advgame.trainer.base.files import read_records
from advgame.trainer.measure.metrics import mean
from advgame.trainer.models.load import quiet
from advgame.trainer.run.folder import EVALUATIONS, METRICS

ARMS: dict[str, tuple[str, ...]] = {
    "shipped": (),
    "averages of .99": ("attacker.ema_decay=0.99", "defender.ema_decay=0.99"),
    "averages of .8": ("attacker.ema_decay=0.8", "defender.ema_decay=0.8"),
    "defender's rate halved": ("defender.optimizer.lr=2e-5",),
    "defender's rate doubled": ("defender.optimizer.lr=8e-5",),
    "no replayed seeds": ("defender.replay_seeds=false",),
}
"""Settings other than the arena's, whose averages are of .95."""
WINDOW = 20
"""Steps that a point of the curve is of."""
BAND = 0.05
SETTLED = 240
LATE = 250
"""The last steps of the game."""
COLUMNS = {
    "mean": "mean",
    "deviation": "standard deviation over time",
    "chance": "of it chance",
    "swings": "swings",
    "late": f"mean of the last {LATE} steps",
    "late_held_out": "late: on held-out seeds",
    "late_written": "late: held-out attacks",
    "late_benign": "late: benign requests complied with, attacked",
    "late_plain": "late: benign requests complied with, plain",
}


def play_arm(arm: str, seed: int, steps: int, runs: Path) -> dict:
    """The curves of a game, and what they sum up to."""
    run = runs / f"{arm.replace(' ', '-')}-{seed}"
    play_run(run, f"seed={seed}", f"steps={steps}", "eval.every=50", *ARMS[arm])
    shares = [record["game"]["attack_success"]["share"] for record in read_records(run / METRICS)]
    points = [shares[end - WINDOW : end] for end in range(WINDOW, steps + 1, WINDOW)]
    settled = points[SETTLED // WINDOW :]
    means = [statistics.mean(point) for point in settled]
    evaluations = [
        {
            "step": record["step"],
            "held_out": record["current"]["attack_success"]["share"],
            "written": record["written"]["attack_success"]["share"],
            "benign": record["current"]["benign_compliance"]["share"],
            "plain": record["plain"]["benign_compliance"]["share"],
        }
        for record in read_records(run / EVALUATIONS)
    ]
    late = [evaluation for evaluation in evaluations if evaluation["step"] > steps - LATE]
    return {
        "arm": arm,
        "seed": seed,
        "mean": statistics.mean(means),
        "deviation": statistics.stdev(means),
        "chance": statistics.mean(statistics.stdev(point) for point in settled) / WINDOW**0.5,
        "swings": swings(means),
        "late": statistics.mean(shares[-LATE:]),
        **{f"late_{name}": mean(e[name] for e in late) for name in ("held_out", "written", "benign", "plain")},
        "curve": [statistics.mean(point) for point in points],
        "evaluations": evaluations,
    }


def swings(curve: list[float], band: float = BAND) -> int:
    """How often the curve goes from above its mean + band to below its mean - band, or back."""
    middle = statistics.mean(curve)
    sides = [share > middle for share in curve if abs(share - middle) > band]
    return sum(side != previous for previous, side in pairwise(sides))


def print_table(results: list[dict], steps: int) -> None:
    table = Table(title=f"attack success over {steps} steps", title_justify="left")
    table.add_column("", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for result in results:
        values = [result[name] for name in COLUMNS]
        cells = ["" if v is None else str(v) if isinstance(v, int) else f"{v:.2f}" for v in values]
        table.add_row(f"{result['arm']}, seed {result['seed']}", *cells)
    Console(width=150).print(table)


def draw(results: list[dict], file: Path) -> None:
    """A panel for each game: the curve, its mean and band, and what was measured on held-out seeds and attacks."""
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, result in zip(panels, results, strict=False):
        curve = result["curve"]
        axes.plot([WINDOW * (i + 0.5) for i in range(len(curve))], curve, color="C0", label="in the games")
        points = result["evaluations"]
        steps = [point["step"] for point in points]
        axes.plot(steps, [point["held_out"] for point in points], "C1.", label="on held-out seeds")
        axes.plot(steps, [point["written"] for point in points], "C2--", label="held-out attacks")
        axes.axhspan(result["mean"] - BAND, result["mean"] + BAND, color="C0", alpha=0.15)
        axes.axvline(SETTLED, color="black", linewidth=0.5)
        axes.set(title=f"{result['arm']}, seed {result['seed']}: {result['swings']} swings", ylim=(0, 1))
    first = figure.axes[0]
    first.legend()
    first.set_ylabel("attack success")
    figure.supxlabel("step")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", help=f"beginnings of their names, with commas between; of {'; '.join(ARMS)}")
    parser.add_argument("--steps", type=int, default=1000, help="more than 250")
    parser.add_argument("--seeds", type=int, default=1, help="games of each arm")
    parser.add_argument("--runs", type=Path, default=Path("runs/arena-swings"), help="the games are kept there")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/swings.json"), help="the plot goes beside")
    options = parser.parse_args()
    quiet()
    chosen = [arm for arm in ARMS if options.arms is None or arm.startswith(tuple(options.arms.split(",")))]
    games = [(arm, seed) for arm in chosen for seed in range(options.seeds)]
    results = [
        play_arm(arm, seed, options.steps, options.runs)
        for arm, seed in track(games, "playing", console=Console(stderr=True))
    ]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))
    print_table(results, options.steps)
    draw(results, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
