"""The payoff matrix: `advgame crossplay` on runs of random models, and what is read out of a matrix."""

import json

import pytest
from helpers import run_tiny
from rich.console import Console

from advgame.trainer.checkpoint import folder
from advgame.trainer.config import load_config
from advgame.trainer.evaluation import measuring, rates
from advgame.trainer.intervals import wilson
from advgame.trainer.judges.rules import judge_by_rules
from advgame.trainer.models import load_policy
from advgame.trainer.payoff import Payoff, reading
from advgame.trainer.play import play
from advgame.trainer.prompts import Prompts
from advgame.trainer.seeds import read_seeds
from advgame.trainer.tools.crossplay import show
from advgame.trainer.tools.main import main

KEPT = ("steps=2", "steps_per_batch=1", "checkpoint.every=1", "checkpoint.keep=9")


def lively(player: str) -> tuple[str, ...]:
    """So high a learning rate that random models differ from step to step."""
    return (f"{player}.optimizer.lr=0.1", f"{player}.ema_decay=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("payoff") / "run"
    return run_tiny(path, *KEPT, *lively("attacker"), *lively("defender"), "judge.success_score=0.5")


def test_every_cell_is_a_game_of_its_own(run, capsys):
    """Attacks that were written once, and answered by all, are those of playing each attacker with each defender."""
    assert main(["crossplay", str(run), "judge.faithfulness=false"]) == 0
    payoff = json.loads((run / "crossplay" / "payoff.json").read_text())
    assert payoff["steps"] == [0, 1, 2] and payoff["harmful"] == payoff["benign"] == 6
    config = measuring(load_config(str(run / "config.yaml"), ["judge.faithfulness=false"]))
    prompts, seeds = Prompts(config.templates), read_seeds(config.seeds.files)
    for a in range(3):
        for d in range(3):
            attacker = load_policy(folder(run, a) / "attacker_ema" if a else "tiny")
            defender = load_policy(folder(run, d) / "defender_ema" if d else "tiny")
            games = play(seeds, "crossplay", attacker, defender, judge_by_rules, prompts, config)
            expected = rates(games, config.judge.success_score)
            assert payoff["attack_success"][a][d] == expected["attack_success"], (a, d)
            assert payoff["benign_compliance"][a][d] == expected["benign_compliance"], (a, d)
    cells = [value for row in payoff["attack_success"] + payoff["benign_compliance"] for value in row]
    assert len(set(cells)) > 2  # or nothing was compared
    assert (run / "crossplay" / "payoff.png").stat().st_size > 5000
    shown = capsys.readouterr().out
    assert all(note in shown for note in payoff["reading"])
    assert "trained on (tiny.jsonl): eval.seeds names none" in shown


def test_no_figure_of_a_wide_table_is_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    steps = list(range(0, 20_000, 1000))
    show(Console(), "compliance", [[1.0] * 20] * 20, steps)
    shown = capsys.readouterr().out
    assert shown.startswith("compliance: attackers down, defenders across, by their step\n")
    assert shown.count("100%") == 400 and "…" not in shown and all(f" {step} " in shown for step in steps)


def test_held_out_seeds_and_their_number_are_the_runs_or_given(run, tmp_path, capsys):
    options = ["crossplay", str(run), "eval.seeds=[harmful.jsonl]", "--limit", "3", "--out", str(tmp_path / "out")]
    assert main(options) == 0
    payoff = json.loads((tmp_path / "out" / "payoff.json").read_text())
    assert (payoff["harmful"], payoff["benign"]) == (3, 0)
    assert payoff["benign_compliance"] == [[None] * 3] * 3
    assert "trained on" not in capsys.readouterr().out


def test_adapters_play_too_and_on_policy_it_is_the_policy_that_plays(tmp_path):
    on_policy = ("attacker.sample_from=policy", "attacker.reference=recompute", "attacker.ema_decay=1")
    lora = ("attacker.lora.rank=4", "attacker.optimizer.lr=0.3", "defender.lora.rank=2")
    run = run_tiny(tmp_path / "run", *KEPT, *lora, *on_policy)
    assert main(["crossplay", str(run)]) == 0
    faithful = json.loads((run / "crossplay" / "payoff.json").read_text())["faithful"]
    assert len(set(faithful)) > 1  # its moving average stays what it was


def test_a_run_that_cannot_be_compared_is_refused(tmp_path, capsys):
    assert main(["crossplay", str(tmp_path)]) == 2
    assert "has no config.yaml; give the output_dir" in capsys.readouterr().err
    run_tiny(tmp_path, "steps=1", "steps_per_batch=1")
    assert main(["crossplay", str(tmp_path)]) == 2
    assert (
        "has 1 checkpoint(s), and crossplay needs 2 or more; the default checkpoint.keep=2" in capsys.readouterr().err
    )
    assert main(["crossplay", str(tmp_path), "judge.kinds=rules"]) == 2
    assert "judge.kinds" in capsys.readouterr().err


def payoff(attack_success: list[list[float]], harmful: int = 100) -> Payoff:
    steps = list(range(0, 10 * len(attack_success), 10))
    return Payoff(steps, harmful, 0, attack_success, attack_success, [1.0] * len(steps))


@pytest.mark.parametrize(
    ("attack_success", "harmful", "said"),
    [
        (
            [[0.5, 0.1], [0.9, 0.2]],
            100,
            ["does not withstand every attacker: that of step 10 does best, 20 of 100", ""],
        ),
        ([[0.5, 0.4], [0.9, 0.2]], 100, ["that of step 0 does best, 40 of 100 (40%, 95% interval 31% to 50%)", ""]),
        ([[0.5, 0.0], [0.9, 0.0]], 4, ["(step 10) withstands every attacker: none succeeds on any seed, 0 of 4", ""]),
        ([[0.5, 0.5], [0.9, 0.2]], 100, ["", "does not cycle"]),
        ([[0.1, 0.5], [0.9, 0.2]], 100, ["", "payoff cycles: against the attacker of step 0, the defender of step 0"]),
        ([[0.1, 0.2], [0.9, 0.2]], 10, ["", "may cycle, but the largest rise is within chance"]),
        # An attacker that is newer than a defender may do better on the next one: that is no cycle.
        ([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.9, 0.1]], 100, ["", "does not cycle"]),
    ],
)
def test_what_a_matrix_says(attack_success, harmful, said):
    notes = reading(payoff(attack_success, harmful))
    assert all(part in note for part, note in zip(said, notes, strict=True)), notes


def test_wilson_intervals():
    """Against the two ends that solve (p - share)² = z² p (1 - p) / n."""
    assert wilson(0, 0) == (0, 1)
    for successes, trials in [(0, 1), (1, 1), (0, 20), (3, 10), (50, 100), (999, 1000)]:
        low, high = wilson(successes, trials)
        share = successes / trials
        assert 0 <= low <= share <= high <= 1 and low < high
        for p in (low, high):
            assert (p - share) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / trials, abs=1e-6)
