"""What is read out of a payoff matrix; how one is played is in commands/test_crossplay.py."""

import pytest

from advgame.trainer.measure.payoff import Payoff, reading


def payoff(attack_success: list[list[float]], harmful: int = 100) -> Payoff:
    steps = list(range(0, 10 * len(attack_success), 10))
    return Payoff(steps, harmful, 0, attack_success, attack_success, [1.0] * len(steps))


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
    notes = reading(payoff(attack_success, harmful))
    assert all(part in note for part, note in zip(said, notes, strict=True)), notes
