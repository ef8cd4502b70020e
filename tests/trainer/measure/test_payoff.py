"""What is read out of a payoff matrix; how one is played is in commands/test_crossplay.py."""

import pytest

from advgame.trainer.measure.payoff import Payoff, reading
from advgame.trainer.measure.rates import Rate, rate


def judged(share: float, trials: int, unjudged: int = 0) -> Rate:
    successes = round(share * trials)
    return rate([True] * successes + [False] * (trials - successes) + [None] * unjudged)


def payoff(success: list[list[Rate]], harmful: int) -> Payoff:
    return Payoff(list(range(0, 10 * len(success), 10)), harmful, 0, success, [], [])


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
    notes = reading(payoff([[judged(share, harmful) for share in row] for row in attack_success], harmful))
    assert all(part in note for part, note in zip(said, notes, strict=True)), notes


def test_nothing_is_said_of_what_was_not_judged():
    dead, some, none = judged(0.0, 0, 10), judged(0.0, 6, 4), judged(0.0, 10)
    half = judged(0.5, 8, 2)
    for success, said in (
        ([[dead, dead], [dead, dead]], ["step 10): nothing is known", "cycles is not known", "40 of 40", "(100%)"]),
        ([[none, some], [none, none]], ["step 10): no judged attack succeeds, 0 of 6", "does not cycle", "4 of 40"]),
        ([[none, dead], [none, none]], ["but not all attacks on it have a verdict", "cycles is not known", "(25%)"]),
        ([[none, dead], [none, half]], ["that of step 10 does best, 4 of 8 (50%", "12 of 40 attacks on harmful"]),
        ([[none, half], [none, none]], ["that of step 0 does best, 4 of 8", "may cycle", "2 of 40"]),
    ):
        notes = reading(payoff(success, 10))
        assert len(notes) == 3 and all(part in " ".join(notes) for part in said), notes
    assert reading(payoff([[judged(0.0, 0)]], 0)) == ["There are no harmful seeds: nothing can be said about attacks."]
