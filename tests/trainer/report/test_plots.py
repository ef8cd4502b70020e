"""Curves and heat maps: real PNGs, whatever is missing from the records."""

from dataclasses import asdict

import pytest

from advgame.trainer.measure.detection import Estimate
from advgame.trainer.measure.rates import rate
from advgame.trainer.report.labels import DETECTION, RATES
from advgame.trainer.report.matrices import Cell
from advgame.trainer.report.plots import EVALUATION, METRICS, draw, draw_matrices

pytest.importorskip("matplotlib")

UNKNOWN = (rate([]), rate([None] * 3), rate([True, None]), rate([True, False]))


ESTIMATES = (Estimate(None, None, None), Estimate(0.5, None, None), Estimate(-0.5, -1.0, 2.0))


def figure(key: str, step: int) -> object:
    """A rate, now and then one without trials or without a verdict, an estimate, or a number."""
    if key in DETECTION:
        return asdict(ESTIMATES[step % len(ESTIMATES)])
    return asdict(UNKNOWN[step % len(UNKNOWN)]) if key in RATES else step % 7


@pytest.mark.parametrize("panels", [METRICS, EVALUATION])
@pytest.mark.parametrize("steps", [0, 1, 150])
def test_curves_of_every_length(panels, steps, tmp_path):
    curves = [(section, key) for _, lines in panels for section, key, _ in lines]
    records = [
        {"step": step} | {place: {key: figure(key, step) for s, key in curves if s == place} for place, _ in curves}
        for step in range(steps)
    ]
    file = tmp_path / "curves.png"
    assert draw(panels, records, file)
    assert file.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [file]


def test_harmful_and_benign_are_in_one_panel():
    for panels in (METRICS, EVALUATION):
        keys = [{key for _, key, _ in lines} for _, lines in panels]
        assert all({"attack_success", "benign_compliance"} <= shown for shown in keys if "attack_success" in shown)
        assert any("attack_success" in shown for shown in keys)
    assert {"d_prime", "criterion"} in keys


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_matrix_may_have_holes(tmp_path, number):
    file = tmp_path / "payoff.png"
    cells = [[Cell("–", None), Cell("0%\n0%–49%", 0.0)], [Cell("–\n1 of 1 unjudged", None), Cell("9.00", 1.0)]]
    assert draw_matrices({f"matrix {i}": cells for i in range(number)}, [0, 5], file)
    assert file.read_bytes().startswith(b"\x89PNG")
