"""Red-teaming: the same game as an evaluation, several times on each seed."""

from dataclasses import asdict, replace

from advgame.trainer.game.play import Rules
from advgame.trainer.judges.phrases import judge_by_phrases
from advgame.trainer.measure.attempts import attempts_of, outcomes
from advgame.trainer.measure.detection import Estimate, detect
from advgame.trainer.measure.evaluation import measured_of, measuring
from advgame.trainer.measure.redteam import answer_attacks, measure, split, write_attacks
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config


def test_the_figures_are_those_of_evaluations():
    config, draws = load_config("tiny", ["judge.success_score=1"]), (0, "redteam")
    prompts, seeds = Prompts(config.templates), read_seeds(["tiny.jsonl"])
    rules = measuring(Rules(prompts, judge_by_phrases, config.attacker, config.defender, config.judge), greedy=False)
    rules = replace(rules, attacker=replace(rules.attacker, samples=5))
    games, diversity = write_attacks("tiny", seeds, rules, draws)
    games = answer_attacks(games, LocalSampler(load_policy("tiny"), "defender"), rules, draws)
    whole = measure(games, 1, draws)
    expected, found = measured_of(games, 1), whole.rates
    for name in ("attack_success", "benign_compliance", "over_refusal", "faithful"):
        assert asdict(found[name]) == expected[name], name
        assert found[name].low <= found[name].share <= found[name].high
    assert 0 < found["attack_success"].share < 1 and 0 < found["faithful"].share < 1
    assert found["attack_success"].asked == 30 and found["best_of_n"].asked == 6
    lacking = [outcome for outcome in outcomes(attempts_of(games, 1)) if outcome.unjudged]
    assert bool(lacking) == (found["attack_success"].unjudged + found["over_refusal"].unjudged > 0)
    parts = split(games, "category")
    assert list(parts) == ["benign", "harmful"] and split(games, "language") == {"": games}
    harmful, benign = (measure(parts[category], 1, draws) for category in ("harmful", "benign"))
    assert harmful.rates["attack_success"] == found["attack_success"]
    assert benign.rates["attack_success"].share is None
    assert whole.detection == detect(games, 1, (*draws, "seeds")) and whole.detection.d_prime.low is not None
    assert harmful.detection.attack_success_by_seeds == whole.detection.attack_success_by_seeds
    assert benign.detection.benign_compliance_by_seeds == whole.detection.benign_compliance_by_seeds
    assert harmful.detection.d_prime == benign.detection.criterion == Estimate(None, None, None)
    assert 0 < diversity["distinct_1"] <= diversity["distinct_2"] < 1
