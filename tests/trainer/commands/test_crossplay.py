"""`advgame crossplay` on runs of random models."""

import json
from dataclasses import asdict

import pytest
from helpers import run_tiny

from advgame.trainer.base.clock import Clock
from advgame.trainer.commands.main import main
from advgame.trainer.game.play import Match, Rules, play
from advgame.trainer.judges.phrases import judge_by_phrases
from advgame.trainer.measure.detection import detect
from advgame.trainer.measure.evaluation import measured_of, measuring
from advgame.trainer.measure.rates import rate
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.checkpoint import folder
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config

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
    config = load_config(str(run / "config.yaml"), ["judge.faithfulness=false"])
    rules = Rules(Prompts(config.templates), judge_by_phrases, config.attacker, config.defender, config.judge)
    rules, seeds = measuring(rules, greedy=False), read_seeds(config.seeds.files)
    for a in range(3):
        for d in range(3):
            attacker = load_policy(folder(run, a) / "attacker_ema" if a else "tiny")
            defender = load_policy(folder(run, d) / "defender_ema" if d else "tiny")
            match = Match(LocalSampler(attacker, "attacker"), LocalSampler(defender, "defender"), rules)
            games = play(match, seeds, (config.seed, "crossplay"), Clock())
            expected = measured_of(games, config.judge.success_score)
            assert payoff["attack_success"][a][d] == expected["attack_success"], (a, d)
            assert payoff["benign_compliance"][a][d] == expected["benign_compliance"], (a, d)
            detection = detect(games, config.judge.success_score, (config.seed, "crossplay", "seeds"))
            assert payoff["detection"][a][d] == asdict(detection), (a, d)
    cells = [cell["share"] for row in payoff["attack_success"] + payoff["benign_compliance"] for cell in row]
    assert len(set(cells)) > 2  # or nothing was compared
    assert (run / "crossplay" / "payoff.png").stat().st_size > 5000
    shown = capsys.readouterr().out
    assert all(note in shown for note in payoff["reading"])
    assert "trained on (tiny.jsonl): eval.seeds names none" in shown
    titles = ("attack success on 6 harmful seeds", "compliance on 6 benign seeds", "discrimination", "threshold")
    assert all(shown.count(title) == 1 for title in titles)
    assert any(cell["d_prime"]["low"] is not None for row in payoff["detection"] for cell in row)


def test_held_out_seeds_and_their_number_are_the_runs_or_given(run, tmp_path, capsys):
    options = ["crossplay", str(run), "eval.seeds=[harmful.jsonl]", "--limit", "3", "--out", str(tmp_path / "out")]
    assert main(options) == 0
    payoff = json.loads((tmp_path / "out" / "payoff.json").read_text())
    assert (payoff["harmful"], payoff["benign"]) == (3, 0)
    assert payoff["benign_compliance"] == [[asdict(rate([]))] * 3] * 3
    shown = capsys.readouterr().out
    assert "trained on" not in shown and "compliance on" not in shown and "discrimination" not in shown
    assert {cell["d_prime"]["value"] for row in payoff["detection"] for cell in row} == {None}


def test_adapters_play_too_and_on_policy_it_is_the_policy_that_plays(tmp_path):
    on_policy = ("attacker.sample_from=policy", "attacker.reference=recompute", "attacker.ema_decay=1")
    lora = ("attacker.lora.rank=4", "attacker.optimizer.lr=0.3", "defender.lora.rank=2")
    run = run_tiny(tmp_path / "run", *KEPT, *lora, *on_policy)
    assert main(["crossplay", str(run)]) == 0
    faithful = json.loads((run / "crossplay" / "payoff.json").read_text())["faithful"]
    assert len({attacker["share"] for attacker in faithful}) > 1  # its moving average stays what it was


def test_a_run_that_cannot_be_compared_is_refused(run, tmp_path, capsys):
    assert main(["crossplay", str(tmp_path)]) == 2
    assert "has no config.yaml; give the output_dir" in capsys.readouterr().err
    run_tiny(tmp_path, "steps=1", "steps_per_batch=1")
    assert main(["crossplay", str(tmp_path)]) == 2
    assert (
        "has 1 checkpoint(s), and crossplay needs 2 or more; the default checkpoint.keep=2" in capsys.readouterr().err
    )
    assert main(["crossplay", str(run), "judge.kinds=phrases"]) == 2
    assert "judge.kinds" in capsys.readouterr().err
