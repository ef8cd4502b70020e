"""Red-teaming: the same game as an evaluation, several times on each seed."""

from dataclasses import asdict, replace

from advgame.trainer.game.play import Rules
from advgame.trainer.judges.phrases import judge_by_phrases
from advgame.trainer.measure.attempts import attempts_of, outcomes
from advgame.trainer.measure.evaluation import measured_of, measuring
from advgame.trainer.measure.redteam import all_rates, answer_attacks, split, write_attacks
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config


def test_the_rates_are_those_of_evaluations():
    config, draws = load_config("tiny", ["judge.success_score=1"]), (0, "redteam")
    prompts, seeds = Prompts(config.templates), read_seeds(["tiny.jsonl"])
    rules = measuring(Rules(prompts, judge_by_phrases, config.attacker, config.defender, config.judge), greedy=False)
    rules = replace(rules, attacker=replace(rules.attacker, samples=5))
    games, diversity = write_attacks("tiny", seeds, rules, draws)
    games = answer_attacks(games, LocalSampler(load_policy("tiny"), "defender"), rules, draws)
    expected, found = measured_of(games, 1), all_rates(games, 1)
    for name in ("attack_success", "benign_compliance", "over_refusal", "faithful"):
        assert asdict(found[name]) == expected[name], name
        assert found[name].low <= found[name].share <= found[name].high
    assert 0 < found["attack_success"].share < 1 and 0 < found["faithful"].share < 1
    assert found["attack_success"].asked == 30 and found["best_of_n"].asked == 6
    lacking = [outcome for outcome in outcomes(attempts_of(games, 1)) if outcome.unjudged]
    assert bool(lacking) == (found["attack_success"].unjudged + found["over_refusal"].unjudged > 0)
    parts = split(games, "category")
    assert list(parts) == ["benign", "harmful"] and split(games, "language") == {"": games}
    assert all_rates(parts["harmful"], 1)["attack_success"] == found["attack_success"]
    assert all_rates(parts["benign"], 1)["attack_success"].share is None
    assert 0 < diversity["distinct_1"] <= diversity["distinct_2"] < 1
