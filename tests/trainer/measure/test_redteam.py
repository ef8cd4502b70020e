"""Red-teaming: the same game as an evaluation, several times on each seed."""

from dataclasses import replace

from advgame.trainer.game.play import Rules
from advgame.trainer.judges.rules import judge_by_rules
from advgame.trainer.measure.attempts import attempts_of, summary
from advgame.trainer.measure.evaluation import measuring, rates
from advgame.trainer.measure.redteam import answer_attacks, write_attacks
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.generate import GenerateSampler
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config


def test_the_rates_are_those_of_evaluations():
    config, draws = load_config("tiny", ["judge.success_score=1"]), (0, "redteam")
    prompts, seeds = Prompts(config.templates), read_seeds(["tiny.jsonl"])
    rules = measuring(Rules(prompts, judge_by_rules, config.attacker, config.defender, config.judge), greedy=False)
    rules = replace(rules, attacker=replace(rules.attacker, samples=5))
    games, diversity = write_attacks("tiny", seeds, rules, draws)
    games = answer_attacks(games, GenerateSampler(load_policy("tiny"), "defender"), rules, draws)
    expected, found = rates(games, 1), summary(attempts_of(games, 1), config.judge)
    for name in ("attack_success", "benign_compliance", "over_refusal", "faithful"):
        assert found[name].share == expected[name], name
        assert found[name].low <= found[name].share <= found[name].high
    assert 0 < expected["attack_success"] < 1 and 0 < expected["faithful"] < 1
    assert found["attack_success"].trials == 30 and found["best_of_n"].trials == 6
    assert 0 < diversity["distinct_1"] <= diversity["distinct_2"] < 1
