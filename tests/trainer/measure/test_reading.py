"""What is read out of payoff matrices; how they are played is in commands/test_crossplay.py."""

from dataclasses import replace

import pytest

from advgame.trainer.measure.detection import Detection, Estimate
from advgame.trainer.measure.payoff import Payoff
from advgame.trainer.measure.rates import Rate, rate
from advgame.trainer.measure.reading import reading

NOTHING = Estimate(None, None, None)
NO_BENIGN = "There are no benign seeds: whether defenders tell benign requests from harmful ones is not known."


def judged(share: float, trials: int, unjudged: int = 0) -> Rate:
    successes = round(share * trials)
    return rate([True] * successes + [False] * (trials - successes) + [None] * unjudged)


def payoff(success: list[list[Rate]], harmful: int) -> Payoff:
    """Without benign seeds."""
    steps, untold = list(range(0, 10 * len(success), 10)), [[NOTHING] * len(success)] * len(success)
    return told(Payoff(steps, harmful, 0, success, [[rate([])] * len(steps)] * len(steps), [], []), untold)


def told(known: Payoff, d_prime: list[list[Estimate]]) -> Payoff:
    """How well the two are told apart, and nothing else."""
    return replace(known, detection=[[Detection(NOTHING, NOTHING, d, NOTHING) for d in row] for row in d_prime])


def with_benign(success: list[list[float]], compliance: list[list[Rate]], d_prime: list[list[Estimate]]) -> Payoff:
    """Ten seeds of both kinds, all attacks on harmful ones judged."""
    harmful = [[judged(share, 10) for share in row] for row in success]
    return told(replace(payoff(harmful, 10), benign=10, benign_compliance=compliance), d_prime)


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
    assert notes[-1] == NO_BENIGN
    assert all(part in note for part, note in zip(said, notes[:-1], strict=True)), notes


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
        assert len(notes) == 4 and all(part in " ".join(notes) for part in said), notes
    nothing = ["There are no harmful seeds: nothing can be said about attacks.", NO_BENIGN]
    assert reading(payoff([[judged(0.0, 0)]], 0)) == nothing


def test_what_defenders_do_with_benign_requests_is_said_beside_it():
    """The last one withstands all attackers, because it declines nearly everything."""
    compliance = [[judged(0.9, 10), judged(0.2, 10)], [judged(0.8, 10), judged(0.1, 8, 2)]]
    d_prime = [[Estimate(1.5, 1.0, 2.0), Estimate(-0.25, None, None)], [Estimate(1.0, 0.5, 2.0), Estimate(0.5, 0.0, 1)]]
    withstands, no_cycle, least, apart, missing = reading(with_benign([[0.5, 0], [0.9, 0]], compliance, d_prime))
    assert "(step 10) withstands every attacker" in withstands and "does not cycle" in no_cycle
    assert "(step 10) complies with benign requests least under the attacker of step 10, in 1 of 8 (12%, 95%" in least
    assert apart == "It tells them from harmful ones least under that of step 0: d′ is -0.25."
    assert missing == "2 of 40 responses to attacks on benign seeds (5%) have no verdict and are not counted."


def test_a_rise_may_be_one_of_the_threshold_alone():
    compliance = [[judged(0.3, 10), judged(0.9, 10)], [judged(0.0, 0)] * 2]
    d_prime = [[Estimate(1.5, 1.0, 2.0), Estimate(1.5, None, None)], [NOTHING] * 2]
    _, cycles, _, apart = reading(with_benign([[0.1, 0.9], [0.0, 0.0]], compliance, d_prime))
    meanwhile = "They comply with its benign requests in 3 of 10 (30%, 95% interval 11% to 60%) and 9 of 10 (90%, 95%"
    assert cycles.startswith("The payoff cycles: ") and meanwhile in cycles
    assert cycles.endswith("; d′ is 1.50 (95% interval by seeds 1.00 to 2.00) and 1.50.")
    assert apart == "It tells them from harmful ones least under that of step 0: d′ is 1.50."


def test_benign_requests_without_a_verdict_say_nothing():
    untold = [[NOTHING] * 2] * 2
    dead = with_benign([[0.1, 0.9], [0.0, 0.0]], [[judged(0.0, 0, 5)] * 2] * 2, untold)
    _, cycles, last, missing = reading(dead)
    assert "They comply" not in cycles and "d′" not in cycles
    assert last == (
        "The last defender (step 10): nothing is known of benign requests, no response to one has a verdict."
    )
    assert missing.startswith("20 of 20 responses to attacks on benign seeds (100%)")
    unasked = with_benign([[0.1, 0.9], [0.0, 0.0]], [[judged(0.5, 10)] * 2] * 2, untold)
    _, cycles, least = reading(unasked)  # the attacks on harmful seeds all failed before the defender was asked
    assert cycles.endswith("and 5 of 10 (50%, 95% interval 24% to 76%).") and "d′" not in cycles + least
