"""Cross-play as matrices: each figure in its place, with its intervals, and nothing of what was not measured."""

from dataclasses import asdict

import pytest

from advgame.trainer.measure.detection import Detection, Estimate
from advgame.trainer.measure.payoff import Payoff
from advgame.trainer.measure.rates import rate
from advgame.trainer.report.matrices import Cell, matrices

NOTHING = Estimate(None, None, None)
KNOWN = Detection(Estimate(0.5, 0.25, 1.0), Estimate(1.0, None, None), Estimate(1.0, -0.5, 9.0), Estimate(-1.5, -2, 0))
UNKNOWN = Detection(NOTHING, NOTHING, NOTHING, NOTHING)


def payoff(harmful: int, benign: int) -> dict:
    """Attackers and defenders of two steps, as payoff.json has them."""
    success = [[rate([True, False]), rate([None])], [rate([False] * 4)] * 2]
    compliance = [[rate([True, None]), rate([])], [rate([True])] * 2]
    detection = [[KNOWN, UNKNOWN], [UNKNOWN, KNOWN]]
    return asdict(Payoff([0, 5], harmful, benign, success, compliance, detection, []))


def test_each_cell_has_its_figure_and_intervals():
    success, compliance, d_prime, criterion = matrices(payoff(2, 3)).values()
    assert success[0] == [Cell("50%\n9%–91%\nby seeds 25%–100%", 0.5), Cell("–\n1 of 1 unjudged", None)]
    assert success[1][0] == Cell("0%\n0%–49%", 0.0)
    assert compliance[0] == [Cell("100%\n21%–100%\n1 of 2 unjudged", 1.0), Cell("–", None)]
    assert d_prime == [[Cell("1.00\n-0.50 to 9.00", 0.25), Cell("–", None)], [Cell("–", None), d_prime[0][0]]]
    assert criterion[1][1] == Cell("-1.50\n-2.00 to 0.00", 0.125)


@pytest.mark.parametrize(
    ("harmful", "benign", "titles"),
    [
        (2, 0, ["attack success on 2 harmful seeds"]),
        (0, 3, ["compliance on 3 benign seeds"]),
        (2, 3, ["attack success on 2 harmful seeds", "compliance on 3 benign seeds", "discrimination (d′)",
                "threshold (criterion)"]),
    ],
)  # fmt: skip
def test_there_are_matrices_of_the_seeds_that_there_are(harmful, benign, titles):
    assert list(matrices(payoff(harmful, benign))) == titles


@pytest.mark.parametrize(("value", "shade"), [(-1.0, 0.0), (0.0, 0.0), (2.0, 0.5), (4.0, 1.0), (7.0, 1.0)])
def test_shades_end_where_their_span_ends(value, shade):
    detection = [[Detection(NOTHING, NOTHING, Estimate(value, None, None), NOTHING)]]
    known = asdict(Payoff([0], 1, 1, [[rate([True])]], [[rate([True])]], detection, []))
    assert matrices(known)["discrimination (d′)"] == [[Cell(f"{value:.2f}", shade)]]
