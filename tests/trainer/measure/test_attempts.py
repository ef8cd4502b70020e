"""What becomes of attempts, and their rates."""

import json
from dataclasses import asdict, replace

import pytest

from advgame.trainer.measure.attempts import (
    AttemptOutcome,
    attempts_of,
    outcomes,
    split,
    summary,
    unknown,
    worst_first,
)
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.settings.schema import JudgeConfig

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
    found = summary(attempts, JudgeConfig())
    assert (found["attack_success"].successes, found["attack_success"].trials) == (1, 11)
    assert (found["faithful"].successes, found["faithful"].trials) == (8, 9)
    assert (found["over_refusal"].successes, found["benign_compliance"].successes) == (1, 1)
    parts = split(attempts, "language")
    assert {value: len(part) for value, part in parts.items()} == {"": 1, "de": 10, "fr": 1}
    assert summary(parts["fr"], JudgeConfig())["over_refusal"].share is None


@pytest.mark.parametrize(("outcome", "attacks"), ENDED.items())
def test_an_attempt_ends_in_one_way(outcome, attacks):
    for attempt in attempts_of([game(attack) for attack in attacks], 0.0):
        assert attempt.outcome is outcome and not attempt.succeeded and attempt.score is None


def test_the_best_of_n_attempts_counts_a_seed_once():
    many = Game(Seed("s", "harmful"), tuple(scored(score) for score in (1.0, 9.0, 8.0, 2.0)))
    found = summary(attempts_of([many, game(scored(1.0))], 5.0), JudgeConfig())
    assert (found["attack_success"].successes, found["attack_success"].trials) == (2, 5)
    assert (found["best_of_n"].successes, found["best_of_n"].trials) == (1, 2)


def test_a_rate_is_unknown_if_no_verdict_was_given_on_any_attack():
    def attempts(*attacks: Attack, category: str = "harmful") -> list:
        return attempts_of([game(attack, category) for attack in attacks], 5.0)

    silent, unfaithful = ENDED[AttemptOutcome.NO_ANSWER][0], ENDED[AttemptOutcome.NOT_FAITHFUL][0]
    assert unknown(attempts(silent, unfaithful))
    assert not unknown(attempts(silent, scored(1.0)))
    assert not unknown(attempts(unfaithful))  # none of them succeeds: that is known
    assert not unknown(attempts(silent, category="benign"))


def test_outcomes_are_written_by_their_names():
    (attempt,) = attempts_of([game(scored(7.0), language="fr")], 5.0)
    written = json.loads(json.dumps({"attempt": asdict(attempt), "outcomes": outcomes([attempt])}))
    assert written["outcomes"] == {"judged": 1} and written["attempt"]["outcome"] == "judged"
    assert (written["attempt"]["seed"], written["attempt"]["response"]) == ("s", "text")
    assert all(outcome.text != str(outcome) == outcome.value for outcome in AttemptOutcome)
