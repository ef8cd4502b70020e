"""Attackers against targets that they did not train with: a matrix of success, and of how varied what succeeds is."""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.detection import detect
from advgame.trainer.measure.evaluation import measuring
from advgame.trainer.measure.metrics import mean
from advgame.trainer.measure.rates import rates, succeeded
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.local import LocalSampler

DRAWS = ("transfer",)

Matrix = dict[str, dict[str, dict]]
"""A cell of each attacker and, within, of each target."""
Frame = Callable[[Game, str], Hashable]
"""What an attack on a game's seed is but for the seed: two with the same frame are one trick."""


def transfer(
    attackers: dict[str, str], targets: dict[str, str], seeds: list[Seed], rules: Rules, attacks: int, frame: Frame
) -> tuple[Matrix, dict[str, list[Game]]]:
    """Every attacker's success on every target, and the games that each attacker wrote. Models by name.

    Each attacker writes once, `attacks` on each of the harmful seeds; all targets answer the same attacks.
    """
    rules = measuring(rules, greedy=False)
    rules = replace(rules, attacker=replace(rules.attacker, samples=attacks))
    harmful = [seed for seed in seeds if seed.category == "harmful"]
    written = {name: _attack(attackers[name], harmful, rules) for name in progress(attackers, "attackers write")}
    columns = {name: _answers(targets[name], written, rules) for name in progress(targets, "targets answer")}
    success_score = rules.judging.success_score
    return {a: {t: _cell(columns[t][a], success_score, frame) for t in targets} for a in attackers}, written


def _attack(model: str, seeds: list[Seed], rules: Rules) -> list[Game]:
    attacker = LocalSampler(load_policy(model), "attacker").freeze()
    return write(rules, attacker, seeds, game_keys(DRAWS, len(seeds)), Clock())


def _answers(model: str, written: dict[str, list[Game]], rules: Rules) -> dict[str, list[Game]]:
    """The games of each attacker, answered by one target."""
    target = LocalSampler(load_policy(model), "defender").freeze()
    return {
        name: answer(rules, target, games, game_keys(DRAWS, len(games)), Clock()) for name, games in written.items()
    }


def _cell(games: list[Game], success_score: float, frame: Frame) -> dict:
    """Success with its interval by seeds, and the number of different frames among the attacks that succeed."""
    rate = rates(games, success_score)["attack_success"]
    interval = detect(games, success_score, DRAWS).attack_success_by_seeds
    successful = {frame(game, a.content) for game in games for a in game.attacks if succeeded(a, success_score)}
    return {
        "attack_success": rate.share,
        "low": interval.low,
        "high": interval.high,
        "successes": rate.successes,
        "attacks": rate.trials,
        "different_wrappings": len(successful),
    }


def averages(matrix: Matrix) -> dict[str, float | None]:
    """Success of the last attackers on the defenders of their own game, and of those of other seeds."""
    trained = [name for name in matrix if name != "first"]
    pairs = [(a, t, matrix[a][t]["attack_success"]) for a in trained for t in trained]
    return {
        "the defender of the same game": mean(share for a, t, share in pairs if a == t),
        "those of other seeds": mean(share for a, t, share in pairs if a != t),
    }


def print_matrix(matrix: Matrix, console: Console) -> None:
    for title, show in (
        ("attack success, with its 95% interval by seeds", _interval),
        (
            "different wrappings among the attacks that succeed",
            lambda c: f"{c['different_wrappings']} of {c['successes']}",
        ),
    ):
        table = Table(title=f"{title}; attackers in rows, targets in columns", title_justify="left")
        table.add_column("", no_wrap=True)
        for target in matrix["first"]:
            table.add_column(target, justify="right")
        for attacker, row in matrix.items():
            table.add_row(attacker, *map(show, row.values()))
        console.print(table)
    for target, share in averages(matrix).items():
        console.print(f"mean success of the last attackers on {target}: {share:.2f}", highlight=False)


def _interval(c: dict) -> str:
    return f"{c['attack_success']:.2f}\n{c['low']:.2f}–{c['high']:.2f}"


def draw_matrix(matrix: Matrix, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    attackers, targets = list(matrix), list(matrix["first"])
    for axes, name, title, form in zip(
        figure.subplots(1, 2),
        ("attack_success", "different_wrappings"),
        ("attack success", "different wrappings among the attacks that succeed"),
        ("{:.2f}", "{}"),
        strict=True,
    ):
        values = [[matrix[a][t][name] for t in targets] for a in attackers]
        axes.imshow(values, cmap="Reds", alpha=0.6, vmin=0, vmax=1 if name == "attack_success" else None)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                axes.text(x, y, form.format(value), ha="center", va="center", fontsize=9)
        axes.set_xticks(range(len(targets)), targets, rotation=30)
        axes.set_yticks(range(len(attackers)), attackers)
        axes.set(xlabel="target", ylabel="attacker", title=title)
    figure.savefig(file, dpi=110)


def progress(items: Collection, title: str) -> Iterable:
    return track(items, title, console=Console(stderr=True))
