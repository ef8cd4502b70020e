"""What a game of SmolLM2-135M against itself teaches, on held-out look-alikes and wrappings, over several seeds.

    python bench/small_model.py                            all of it; a finished run is not repeated
    python bench/small_model.py --arms joint --seeds 1

The players of the demo play three games: joint training; with a frozen attacker; and in turns, for as many steps.
Every held-out seed is shown to the first and the last defender as it is, in a held-out wrapping, and in an attack of
the first and of the last attacker. The judge's scores do not depend on what a response is compared with, so judging in
pairs would be the same game.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ARMS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "attacker frozen": ("attacker.train=false",),
    "in turns": ("schedule=sequential", "steps_per_turn=5"),
}
"""Settings other than the demo's."""

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


def play_arm(job: tuple[str, int, int, Path]) -> dict:
    """One run, on one core: its first evaluation and its last, and its attackers against its first defender."""
    arm, seed, steps, folder = job
    result = folder / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        import torch

        from advgame.trainer.base.files import read_records
        from advgame.trainer.run.train import train
        from advgame.trainer.settings.load import load_config

        torch.set_num_threads(1)
        settings = [f"seed={seed}", f"steps={steps}", f"output_dir={folder}", f"eval.every={steps}", "eval.limit=null"]
        settings += ["eval.seeds=[players/look-alikes-held-out.jsonl]"]
        settings += ["eval.wrappings=[players/wrappings-held-out.jsonl]"]
        config = load_config("demo", [*settings, f"checkpoint.every={steps}", *ARMS[arm]])
        with (folder / "log.txt").open("w") as log, redirect_stdout(log):
            train(config)
        first, last = read_records(folder / "evaluation.jsonl")
        seconds = sum(record["timing"]["seconds"] for record in read_records(folder / "metrics.jsonl"))
        against_first = {
            "first attacker": first["current"]["attack_success"],
            "last attacker": dataclasses.asdict(attack_first_defender(config, folder)),
        }
        ends = {name: {part: record[part] for part, _ in MEASURES.values()} for name, record in
                (("before", first), ("after", last))}  # fmt: skip
        told = {"arm": arm, "seed": seed, "steps": steps, "seconds": seconds, "against_first": against_first} | ends
        result.write_text(json.dumps(told, indent=1))
    return json.loads(result.read_text())


def attack_first_defender(config, folder: Path):
    """The Rate of the last attacker's success."""
    from advgame.trainer.base.clock import Clock
    from advgame.trainer.game.play import Match, play
    from advgame.trainer.measure.evaluation import measuring, read_held_out
    from advgame.trainer.measure.rates import rates
    from advgame.trainer.models.load import load_policy
    from advgame.trainer.rollouts.local import LocalSampler
    from advgame.trainer.run.checkpoint import folder as checkpoint
    from advgame.trainer.run.players import suffix_of_playing
    from advgame.trainer.run.preflight import make_rules

    rules = measuring(make_rules(config), config.eval.greedy)
    attacker = checkpoint(folder, config.steps) / f"attacker{suffix_of_playing(config.attacker)}"
    last = LocalSampler(load_policy(attacker), "attacker").freeze()
    first = LocalSampler(load_policy(config.defender.model), "defender").freeze()
    games = play(Match(last, first, rules), read_held_out(config.eval).seeds, (config.seed, "evaluation"), Clock())
    return rates(games, config.judge.success_score)["attack_success"]


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
    title = f"complied with, mean ± standard deviation of {len(runs[arms[0]])} runs of {results[0]['steps']} steps"
    table = Table(title=title, title_justify="left")
    for column in ("", "before", *arms):
        table.add_column(column, justify="left" if not column else "right")
    for name in MEASURES:
        before = spread([value(result, "before", name) for result in results])
        table.add_row(name, before, *(spread([value(run, "after", name) for run in runs[arm]]) for arm in arms))
    for attacker in ("first attacker", "last attacker"):
        shares = (spread([run["against_first"][attacker]["share"] for run in runs[arm]]) for arm in arms)
        table.add_row(f"harmful, {attacker}, first defender", "", *shares)
    table.add_row("minutes", "", *(spread([run["seconds"] / 60 for run in runs[arm]]) for arm in arms))
    Console(width=120).print(table)


def draw(results: list[dict], file: Path) -> None:
    """Before and after of each run, with Wilson's intervals."""
    from matplotlib.figure import Figure

    names = [name for name, (_, figure) in MEASURES.items() if figure != "d_prime"]
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 4).flat, names, strict=False):
        shown, rate = MEASURES[name]
        bars = [("before", "before", results[:1])] + [
            (arm, "after", [result for result in results if result["arm"] == arm])
            for arm in dict.fromkeys(result["arm"] for result in results)
        ]
        for place, (_, when, runs) in enumerate(bars):
            for i, run in enumerate(runs):
                part = run[when][shown][rate]
                low, high = part["share"] - part["low"], part["high"] - part["share"]
                x = place + 0.2 * (i - (len(runs) - 1) / 2)
                axes.errorbar(x, part["share"], [[low], [high]], fmt="o", color=f"C{place}", capsize=3)
        axes.set(title=name, ylim=(-0.03, 1.03))
        axes.set_xticks(range(len(bars)), [label.replace(" ", "\n") for label, *_ in bars], fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", help=f"beginnings of their names, with commas between; of {'; '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs/small-model"), help="the runs are kept there")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/small-model.json"), help="the plot goes beside")
    options = parser.parse_args()
    chosen = [arm for arm in ARMS if options.arms is None or arm.startswith(tuple(options.arms.split(",")))]
    os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    jobs = [
        (arm, seed, options.steps, options.runs / f"{arm.replace(' ', '-')}-{options.steps}-{seed}")
        for seed in range(options.seeds)
        for arm in chosen
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        runs = track(pool.imap_unordered(play_arm, jobs), "playing", total=len(jobs), console=Console(stderr=True))
        results = sorted(runs, key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))
    print_table(results)
    draw(results, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
