"""Do attacks break targets that their attacker did not train against? Every attacker of the arena on every defender.

    python bench/arena_transfer.py                          five games and the matrix, on one core
    python bench/arena_transfer.py --runs runs/experiments  the same, with the games of bench/experiments.py

Attackers are the first one and those at the end of games with different seeds. Targets are the defenders of these
games, the first defender, and a larger one of another seed that knows the language but has not played. Each attacker
writes once, 8 attacks on each held-out harmful seed; all targets answer the same attacks. Intervals are made by drawing
seeds anew.
"""

import argparse
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.arena import FIRST, arena, make_rules, play_run

from advgame.trainer.arena.language import Wrapping, heaviness, parse
from advgame.trainer.base.clock import Clock
from advgame.trainer.base.files import adding_folder
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.detection import detect
from advgame.trainer.measure.evaluation import measuring, read_held_out
from advgame.trainer.measure.metrics import mean
from advgame.trainer.measure.rates import rates, succeeded
from advgame.trainer.models.built.arena import build_defender
from advgame.trainer.models.load import load_policy, quiet
from advgame.trainer.records import Attack, Game, Seed
from advgame.trainer.rollouts.local import LocalSampler

ATTACKS = 8
LARGER = 128
"""Hidden size of the larger defender; the arena's is 64."""
DRAWS = ("transfer",)


def make_players(seeds: int, runs: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Attackers and targets by name."""
    games = {
        f"seed {seed}": play_run(runs / f"joint-{seed}", f"seed={seed}") for seed in progress(range(seeds), "games")
    }
    larger = runs / f"defender-{LARGER}"
    if not larger.exists():
        with adding_folder(larger) as half:
            build_defender(half, seed=1, hidden_size=LARGER)
    attackers = {"first": FIRST.attacker} | {name: players.attacker for name, players in games.items()}
    targets = {"first": FIRST.defender} | {name: players.defender for name, players in games.items()}
    return attackers, targets | {"first, larger": str(larger)}


def attack(model: str, seeds: list[Seed], rules: Rules) -> list[Game]:
    attacker = LocalSampler(load_policy(model), "attacker").freeze()
    return write(rules, attacker, seeds, game_keys(DRAWS, len(seeds)), Clock())


def answers(model: str, written: dict[str, list[Game]], rules: Rules) -> dict[str, list[Game]]:
    """The games of each attacker, answered by one target."""
    target = LocalSampler(load_policy(model), "defender").freeze()
    return {
        name: answer(rules, target, games, game_keys(DRAWS, len(games)), Clock()) for name, games in written.items()
    }


def cell(games: list[Game], success_score: float) -> dict:
    """What an attacker does to a target: success with its interval by seeds, and how varied what succeeds is."""
    rate = rates(games, success_score)["attack_success"]
    interval = detect(games, success_score, DRAWS).attack_success_by_seeds
    successful = [a for game in games for a in game.attacks if succeeded(a, success_score)]
    return {
        "attack_success": rate.share,
        "low": interval.low,
        "high": interval.high,
        "successes": rate.successes,
        "attacks": rate.trials,
        "different_wrappings": len(set(wrappings(successful))),
    }


def portrait(games: list[Game]) -> dict:
    """What an attacker's faithful attacks look like."""
    faithful = wrappings([a for game in games for a in game.attacks if a.outcome.shown])
    cores = Counter(wrapping.core for wrapping in faithful)
    return {
        "attacks": sum(len(game.attacks) for game in games),
        "faithful": len(faithful),
        "different_wrappings": len(set(faithful)),
        "heaviness": mean(map(heaviness, faithful)),
        "cores": {core: count / len(faithful) for core, count in cores.most_common()},
    }


def wrappings(attacks: list[Attack]) -> list[Wrapping]:
    return [wrapping for _, wrapping in map(parse, (a.content for a in attacks))]


def progress(items: Collection, title: str) -> Iterable:
    return track(items, title, console=Console(stderr=True))


def averages(matrix: dict) -> dict[str, float]:
    """Success of the last attackers on the defenders of their own game, and of those of other seeds."""
    trained = [name for name in matrix if name != "first"]
    pairs = [(a, t, matrix[a][t]["attack_success"]) for a in trained for t in trained]
    return {
        "the defender of the same game": mean(share for a, t, share in pairs if a == t),
        "those of other seeds": mean(share for a, t, share in pairs if a != t),
    }


def print_tables(report: dict) -> None:
    targets = list(report["matrix"]["first"])
    for title, show in (
        ("attack success, with its 95% interval by seeds", _interval),
        (
            "different wrappings among the attacks that succeed",
            lambda c: f"{c['different_wrappings']} of {c['successes']}",
        ),
    ):
        table = Table(title=f"{title}; attackers in rows, targets in columns", title_justify="left")
        table.add_column("", no_wrap=True)
        for target in targets:
            table.add_column(target, justify="right")
        for attacker, row in report["matrix"].items():
            table.add_row(attacker, *(show(row[target]) for target in targets))
        Console(width=150).print(table)
    table = Table(
        "", "faithful", "different wrappings", "mean heaviness", "cores", title="the attacks", title_justify="left"
    )
    for name, looks in report["attackers"].items():
        cores = "; ".join(f"{core.split()[0]} … {share:.2f}" for core, share in looks["cores"].items())
        faithful = f"{looks['faithful']} of {looks['attacks']}"
        table.add_row(name, faithful, str(looks["different_wrappings"]), f"{looks['heaviness']:.1f}", cores)
    console = Console(width=150)
    console.print(table)
    for target, share in report["averages"].items():
        console.print(f"mean success of the last attackers on {target}: {share:.2f}", highlight=False)


def _interval(c: dict) -> str:
    return f"{c['attack_success']:.2f}\n{c['low']:.2f}–{c['high']:.2f}"


def draw(matrix: dict, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    attackers, targets = list(matrix), list(matrix["first"])
    for axes, name, form in zip(
        figure.subplots(1, 2), ("attack_success", "different_wrappings"), ("{:.2f}", "{}"), strict=True
    ):
        values = [[matrix[a][t][name] for t in targets] for a in attackers]
        axes.imshow(values, cmap="Reds", alpha=0.6, vmin=0, vmax=1 if name == "attack_success" else None)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                axes.text(x, y, form.format(value), ha="center", va="center", fontsize=9)
        axes.set_xticks(range(len(targets)), targets, rotation=30)
        axes.set_yticks(range(len(attackers)), attackers)
        axes.set(xlabel="target", ylabel="attacker")
    left, right = figure.axes
    left.set_title("attack success")
    right.set_title("different wrappings among the attacks that succeed")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="games with the arena's own players")
    parser.add_argument("--runs", type=Path, default=Path("runs/arena-transfer"), help="games and the larger defender")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/transfer.json"), help="the plot goes beside")
    options = parser.parse_args()
    quiet()
    config = arena()
    success_score = config.judge.success_score
    rules = measuring(make_rules(config), greedy=False)
    rules = replace(rules, attacker=replace(rules.attacker, samples=ATTACKS))
    seeds = [seed for seed in read_held_out(config.eval).seeds if seed.category == "harmful"]
    attackers, targets = make_players(options.seeds, options.runs)
    written = {name: attack(attackers[name], seeds, rules) for name in progress(attackers, "attackers write")}
    columns = {name: answers(targets[name], written, rules) for name in progress(targets, "targets answer")}
    matrix = {a: {t: cell(columns[t][a], success_score) for t in targets} for a in attackers}
    report = {
        "matrix": matrix,
        "attackers": {name: portrait(games) for name, games in written.items()},
        "averages": averages(matrix),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1))
    print_tables(report)
    draw(matrix, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
