"""Curves and heat maps: real PNGs, whatever is missing from the records."""

import pytest

from advgame.trainer.report.plots import EVALUATION, METRICS, draw, draw_matrices

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("panels", [METRICS, EVALUATION])
@pytest.mark.parametrize("steps", [0, 1, 150])
def test_curves_of_every_length(panels, steps, tmp_path):
    curves = [(section, key) for _, lines in panels for section, key, _ in lines]
    records = [
        {"step": step} | {section: {key: step % 7 for s, key in curves if s == section} for section, _ in curves}
        for step in range(steps)
    ]
    file = tmp_path / "curves.png"
    assert draw(panels, records, file)
    assert file.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [file]


def test_a_matrix_may_have_holes(tmp_path):
    file = tmp_path / "payoff.png"
    assert draw_matrices({"success": [[0.5, None], [1.0, 0.0]], "compliance": [[None] * 2] * 2}, [0, 5], file)
    assert file.read_bytes().startswith(b"\x89PNG")
