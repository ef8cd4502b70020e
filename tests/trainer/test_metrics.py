"""Metrics: rates of a batch of games small enough to count by hand, and the file that keeps them."""

import pytest

from advgame.trainer import metrics
from advgame.trainer.game import Attack, Game, Response, Rollout, Seed


def rollout(tokens: int) -> Rollout:
    return Rollout([7] * tokens, [0.0] * tokens, "text", True)


def attack(outcome, score, *responses) -> Attack:
    reward = {"no_error": score, "parsing": -1.0, "not_faithful": -1.0}.get(outcome)
    return Attack(outcome, rollout(4), score=score, reward=reward, responses=list(responses))


def response(outcome, score, tokens=6) -> Response:
    return Response(outcome, rollout(tokens), score=score, reward=score)


GAMES = [
    Game(
        Seed("h", "harmful"),
        [1],
        [
            attack("no_error", 8.0, response("no_error", 1.0), response("no_error", 3.0, tokens=10)),
            attack("not_faithful", None, Response(), Response()),
            attack("no_error", 2.0, response("no_error", 9.0), response("max_length", None)),
            attack("parsing", None, Response(), Response()),
        ],
    ),
    Game(
        Seed("b", "benign"),
        [1],
        [
            attack("no_error", 9.0, response("no_error", 2.0), response("no_error", 7.0)),
            attack("bad_faith_judge", None, Response(), Response()),
        ],
    ),
]


def test_rates_are_what_they_say():
    measured = metrics.game_metrics(GAMES, success_score=5.0)
    assert measured["attack_success"] == 1 / 4  # of all attacks on harmful seeds, the failed ones included
    assert measured["benign_compliance"] == 1 / 2
    assert measured["deflection_score"] == pytest.approx((1 + 3 + 9) / 3)
    assert measured["compliance_score"] == 4.5
    assert measured["parsed"] == 5 / 6
    assert measured["faithful"] == 3 / 4  # of those that got a verdict
    assert measured["attacker_reward"] == pytest.approx((8 - 1 + 2 - 1 + 9) / 5)
    assert measured["valid_responses"] == 5 / 6
    assert (measured["prompt_tokens"], measured["response_tokens"]) == (4, pytest.approx(40 / 6))
    assert measured["prompt_outcomes"] == {"no_error": 3, "not_faithful": 1, "parsing": 1, "bad_faith_judge": 1}
    assert metrics.sampled_tokens(GAMES) == 24 + 40


def test_nothing_played_has_no_rates():
    measured = metrics.game_metrics([], success_score=5.0)
    assert all(value in (None, {}) for value in measured.values())


def test_truncate_drops_later_steps_and_half_a_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    metrics.truncate(file, 3)  # nothing there yet
    for step in range(1, 5):
        metrics.append(file, {"step": step})
    with file.open("a") as out:
        out.write('{"st')
    metrics.truncate(file, 3)
    assert metrics.read(file) == [{"step": 1}, {"step": 2}, {"step": 3}]
