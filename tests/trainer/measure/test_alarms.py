"""Alarms: a judge with a favourite place, scores at the ends of the scale, and what drifts from the start."""

from dataclasses import asdict

import pytest

from advgame.trainer.game.play import Rules
from advgame.trainer.measure.alarms import alarms, position_bias, saturation, signs, unjudged
from advgame.trainer.measure.rates import rate
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed
from advgame.trainer.settings.schema import AttackerConfig, DefenderConfig, JudgeConfig


def answered(category: str, text: str, score: float | None, attack_score: float | None = None) -> Game:
    response = Response(Rollout([1], [7] * len(text), [], text, True), Parsed("", text), score=score)
    attack = Attack(Rollout([1], [7] * 4, [], "x", True), Parsed("", "x"), responses=(response,), score=attack_score)
    return Game(Seed("s", category), (attack,))


@pytest.mark.parametrize("favour", [0.0, 1.5, -3.0])
def test_a_judge_with_a_favourite_place_shows(favour):
    """It scores by length, from 3 up, and adds something for the first place. If it says nothing, nothing counts."""

    def judge(requests):
        assert all(request.query == "s" and len(request.candidates) == 2 for request in requests)
        return [
            (None, None) if request.candidates[0] == "bad" else (3 + len(a) + favour, 3.0 + len(b))
            for request in requests
            for a, b in [request.candidates]
        ]

    attacked = [answered("harmful", "long answer", 1), answered("benign", "a", 1), answered("benign", "bad", 1)]
    asked = [answered("harmful", "b", 1), answered("benign", "bb", 1), answered("benign", "much longer", 1)]
    assert position_bias(attacked, asked, judge) == pytest.approx(favour)
    rules = Rules(Prompts(), judge, AttackerConfig(), DefenderConfig(), JudgeConfig())
    measured = signs(attacked, asked, rules, None)
    assert len(alarms({"signs": measured, "diversity": {}}, None)) == (abs(favour) > 1)
    assert position_bias([], [], judge) is None


def test_alarms_compare_with_the_start():
    def record(**changed) -> dict:
        usual = {
            "attack_length_ratio": 1.0, "response_length_ratio": 1.0, "position_bias": 0.0, "score_saturation": 0.5,
            "distinct_2": 0.8, "embedding_spread": 0.4,
        }  # fmt: skip
        return {"signs": usual | changed, "diversity": usual | changed}

    start = record()
    assert alarms(start, None) == alarms(record(), start) == []
    for changed, said in (
        ({"attack_length_ratio": 2.5}, "attacks are 2.5 times as long"),
        ({"response_length_ratio": 0.4}, "responses are 0.4 times as long"),
        ({"position_bias": -2.0}, "second of two responses 2.0 points"),
        ({"score_saturation": 0.95}, "95% of the scores"),
        ({"distinct_2": 0.3}, "attacks grow alike: distinct_2 is 0.3"),
        ({"embedding_spread": 0.1}, "attacks grow alike: embedding_spread"),
    ):
        (sentence,) = alarms(record(**changed), start)
        assert said in sentence
    always = record(score_saturation=0.95)
    assert alarms(always, always) == []
    missing = record(**dict.fromkeys(start["signs"]))
    assert alarms(missing, missing) == []


def test_too_many_missing_verdicts_are_named():
    whole, lacking = asdict(rate([True] * 19 + [None])), asdict(rate([True] * 18 + [None] * 2))
    names = ("attack_success", "benign_compliance", "over_refusal")
    record = {"current": dict.fromkeys(names, whole), "plain": dict.fromkeys(names, whole), "signs": {"a": 1.0}}
    assert unjudged(record) == []  # 5% are tolerated
    record["plain"] = record["plain"] | {"over_refusal": lacking}
    assert unjudged(record) == ["over refusal without a verdict: 2 of 20 (10%) plain"]
    record["current"] = dict.fromkeys(names, lacking)
    assert [sentence.count("2 of 20 (10%)") for sentence in unjudged(record)] == [1, 1, 2]


def test_saturation_is_of_all_scores():
    assert saturation([answered("harmful", "a", 0.0, 10.0), answered("benign", "a", 9.9, None)]) == 2 / 3
    assert saturation([]) is None


def test_a_judge_that_is_never_asked_in_pairs_has_no_favourite_place():
    games = [answered("harmful", "long answer", 1.0)]
    one_by_one = AttackerConfig(judge="pointwise"), DefenderConfig(judge="none")
    assert signs(games, games, Rules(Prompts(), pytest.fail, *one_by_one, JudgeConfig()), None)["position_bias"] is None
