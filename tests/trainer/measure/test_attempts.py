"""What becomes of attempts."""

import json
from dataclasses import asdict, replace

import pytest

from advgame.trainer.measure.attempts import (
    AttemptOutcome,
    attempts_of,
    outcomes,
    worst_first,
)
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict

WHOLE = Rollout([], [], [], "whole text", finished=True)
CUT = replace(WHOLE, finished=False)
TEXT = Parsed("", "text")
UNANSWERED = Response()
ANSWERED = Response(WHOLE, TEXT, judged=True, score=1.0)
FAITHFUL, UNFAITHFUL, MISSING = Verdict.FAITHFUL, Verdict.UNFAITHFUL, Verdict.MISSING


def game(attack: Attack, category: str = "harmful", **fields: str) -> Game:
    return Game(Seed("s", category, fields), (attack,))


def scored(score: float | None) -> Attack:
    return Attack(WHOLE, TEXT, FAITHFUL, (replace(ANSWERED, score=score),), judged=True, score=score)


ENDED = {
    AttemptOutcome.MAX_LENGTH: [Attack(CUT, None, responses=(UNANSWERED,))],
    AttemptOutcome.PARSING: [Attack(WHOLE, None, responses=(UNANSWERED,))],
    AttemptOutcome.NOT_FAITHFUL: [Attack(WHOLE, TEXT, UNFAITHFUL, (UNANSWERED,))],
    AttemptOutcome.BAD_FAITH_JUDGE: [Attack(WHOLE, TEXT, MISSING, (UNANSWERED,))],
    AttemptOutcome.NO_ANSWER: [Attack(WHOLE, TEXT, FAITHFUL, (UNANSWERED,))],
    AttemptOutcome.RESPONSE_MAX_LENGTH: [Attack(WHOLE, TEXT, FAITHFUL, (Response(CUT),))],
    AttemptOutcome.RESPONSE_PARSING: [Attack(WHOLE, TEXT, FAITHFUL, (Response(WHOLE),))],
    AttemptOutcome.BAD_JUDGE: [
        Attack(WHOLE, TEXT, FAITHFUL, (replace(ANSWERED, score=None),), judged=False),
        Attack(WHOLE, TEXT, FAITHFUL, (ANSWERED,), judged=True),
    ],
}
"""Attacks that nobody has a score for."""


def test_what_becomes_of_attempts():
    games = [game(attack, language="de") for attacks in ENDED.values() for attack in attacks]
    games += [game(scored(4.0)), game(scored(9.0), "benign", language="de"), game(scored(7.0), language="fr")]
    attempts = attempts_of(games, 5.0)
    counted = dict.fromkeys(AttemptOutcome, 1) | {AttemptOutcome.BAD_JUDGE: 2, AttemptOutcome.JUDGED: 3}
    assert outcomes(attempts) == counted and list(outcomes(attempts)) == list(AttemptOutcome)
    assert [a.score for a in worst_first(attempts)[:2]] == [7.0, 9.0]
    assert sum(a.succeeded is None for a in attempts) == sum(a.outcome.unjudged for a in attempts) == 6


@pytest.mark.parametrize(("outcome", "attacks"), ENDED.items())
def test_an_attempt_ends_in_one_way(outcome, attacks):
    for attempt in attempts_of([game(attack) for attack in attacks], 0.0):
        assert attempt.outcome is outcome and attempt.score is None
        assert attempt.succeeded is (None if outcome.unjudged else False)
        assert outcome.told.startswith("no verdict: ") == outcome.unjudged and outcome.told.endswith(outcome.text)


def test_outcomes_are_written_by_their_names():
    (attempt,) = attempts_of([game(scored(7.0), language="fr")], 5.0)
    written = json.loads(json.dumps({"attempt": asdict(attempt), "outcomes": outcomes([attempt])}))
    assert written["outcomes"] == {"judged": 1} and written["attempt"]["outcome"] == "judged"
    assert (written["attempt"]["seed"], written["attempt"]["response"]) == ("s", "text")
    assert all(outcome.text != str(outcome) == outcome.value for outcome in AttemptOutcome)
