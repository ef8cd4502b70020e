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
from pathlib import Path

from rich.console import Console
from rich.table import Table
from support.arena import FIRST, arena, make_rules, play_run
from support.transfer import averages, draw_matrix, print_matrix, progress, transfer

from advgame.trainer.arena.language import Wrapping, heaviness, parse
from advgame.trainer.base.files import adding_folder
from advgame.trainer.measure.evaluation import read_held_out
from advgame.trainer.measure.metrics import mean
from advgame.trainer.models.built.arena import build_defender
from advgame.trainer.models.load import quiet
from advgame.trainer.records import Attack, Game

ATTACKS = 8
LARGER = 128
"""Hidden size of the larger defender; the arena's is 64."""


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


def print_portraits(portraits: dict[str, dict], console: Console) -> None:
    table = Table(
        "", "faithful", "different wrappings", "mean heaviness", "cores", title="the attacks", title_justify="left"
    )
    for name, looks in portraits.items():
        cores = "; ".join(f"{core.split()[0]} … {share:.2f}" for core, share in looks["cores"].items())
        faithful = f"{looks['faithful']} of {looks['attacks']}"
        table.add_row(name, faithful, str(looks["different_wrappings"]), f"{looks['heaviness']:.1f}", cores)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="games with the arena's own players")
    parser.add_argument("--runs", type=Path, default=Path("runs/arena-transfer"), help="games and the larger defender")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/transfer.json"), help="the plot goes beside")
    options = parser.parse_args()
    quiet()
    config = arena()
    rules, seeds = make_rules(config), read_held_out(config.eval).seeds
    attackers, targets = make_players(options.seeds, options.runs)
    matrix, written = transfer(attackers, targets, seeds, rules, ATTACKS, lambda _, attack: parse(attack)[1])
    portraits = {name: portrait(games) for name, games in written.items()}
    report = {"matrix": matrix, "attackers": portraits, "averages": averages(matrix)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1))
    console = Console(width=150)
    print_matrix(matrix, console)
    print_portraits(portraits, console)
    draw_matrix(matrix, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
