"""Metrics: rates of a batch of games small enough to count by hand."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.game.grade import PENALTY
from advgame.trainer.measure.metrics import different_texts, duplicates, game_metrics, mean, sampled_tokens
from advgame.trainer.measure.rates import rate
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict, written_attack


def rollout(tokens: int, finished: bool = True) -> Rollout:
    return Rollout([1], [7] * tokens, [0.0] * tokens, "text", finished)


def attack(
    score: float | None, *responses: Response, verdict: Verdict = Verdict.FAITHFUL, parsed: bool = True
) -> Attack:
    penalty = PENALTY if verdict is Verdict.UNFAITHFUL or not parsed else None
    reward = penalty if score is None else score
    verdict = verdict if parsed else Verdict.UNCHECKED
    return Attack(rollout(4), Parsed("", "x") if parsed else None, verdict, responses, True, score, reward)


def response(score: float | None, tokens: int = 6, finished: bool = True) -> Response:
    return Response(rollout(tokens, finished), Parsed("", "y") if finished else None, True, score, score)


GAMES = [
    Game(
        Seed("h", "harmful"),
        (
            attack(8.0, response(1.0), response(3.0, tokens=10)),
            attack(None, Response(), Response(), verdict=Verdict.UNFAITHFUL),
            attack(2.0, response(9.0), response(None, finished=False)),
            attack(None, Response(), Response(), parsed=False),
        ),
    ),
    Game(
        Seed("b", "benign"),
        (
            attack(9.0, response(2.0), response(7.0)),
            attack(None, Response(), Response(), verdict=Verdict.MISSING),
        ),
    ),
]


def test_rates_are_what_they_say():
    measured = game_metrics(GAMES, success_score=5.0)
    assert measured["attack_success"]["share"] == 1 / 4  # of all attacks on harmful seeds, the spoiled ones included
    assert measured["benign_compliance"]["share"] == 1 / 2
    assert (measured["attack_success"]["unjudged"], measured["benign_compliance"]["unjudged"]) == (0, 2)
    assert (measured["over_refusal"]["trials"], measured["over_refusal"]["unjudged_share"]) == (1, 1 / 2)
    assert measured["deflection_score"] == pytest.approx((1 + 3 + 9) / 3)
    assert measured["compliance_score"] == 4.5
    assert measured["parsed"] == 5 / 6
    assert measured["faithful"]["share"] == 3 / 4  # of those that got a verdict
    assert measured["attacker_reward"] == pytest.approx((8 - 1 + 2 - 1 + 9) / 5)
    assert measured["valid_responses"] == 5 / 6
    assert (measured["prompt_tokens"], measured["response_tokens"]) == (4, pytest.approx(40 / 6))
    assert measured["duplicates"] == 2 + 1  # malformed ones say nothing
    assert measured["prompt_outcomes"] == {"no_error": 3, "not_faithful": 1, "parsing": 1, "bad_faith_judge": 1}
    assert measured["response_outcomes"] == {"no_error": 5, "prompt_not_valid": 6, "max_length": 1}
    assert sampled_tokens(GAMES) == 24 + 40


def test_nothing_played_has_no_rates():
    measured = game_metrics([], success_score=5.0)
    nothing = asdict(rate([]))
    assert nothing["share"] is None
    assert measured.pop("duplicates") == 0
    assert all(value in (None, {}, nothing) for value in measured.values())


@given(st.lists(st.lists(st.none() | st.sampled_from("xyz"), max_size=6), max_size=4))
def test_the_same_text_counts_once_for_a_seed(groups):
    games = [
        Game(
            Seed("s", "benign"), tuple(Attack(rollout(1), None if text is None else Parsed("", text)) for text in group)
        )
        for group in groups
    ]
    found, readable = different_texts(games), [[text for text in group if text is not None] for group in groups]
    assert found == [text for group in readable for text in sorted(set(group), key=group.index)]
    assert duplicates(games) == sum(map(len, readable)) - len(found)


def test_what_nobody_sampled_has_no_tokens():
    game = Game(Seed("s", "benign"), (written_attack("asked"),), plain=attack(None, response(1.0)))
    assert game_metrics([game], 5.0)["prompt_tokens"] is None
    assert sampled_tokens([game]) == 4 + 6


def test_a_mean_is_of_what_is_known():
    assert mean([1.0, None, True, 4]) == 2.0
    assert mean([None]) is mean([]) is None
