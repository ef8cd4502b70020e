"""An optimiser's state, written in parts by some processes and read in others by other processes."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.engines.saved import MOMENTS, SavedState, part_of

FIELDS = {f"layer.weight/{field}": torch.arange(20.0) + 100 * i for i, field in enumerate(MOMENTS)}


def write(folder: Path, cuts: list[int]) -> list[Path]:
    """A file for each process, which begins at its cut."""
    files = []
    for rank, (start, end) in enumerate(pairwise(cuts)):
        parts = {part_of(field, start): whole[start:end].clone() for field, whole in FIELDS.items() if start < end}
        save_file(parts | {"layer.weight/step": torch.tensor(7.0)}, folder / f"{rank}")
        files.append(folder / f"{rank}")
    return files


@given(inner=st.lists(st.integers(0, 20), max_size=4), start=st.integers(0, 20), size=st.integers(0, 20))
def test_any_part_is_read_from_any_parts(inner, start, size):
    size = min(size, 20 - start)
    with TemporaryDirectory() as folder:
        saved = SavedState(write(Path(folder), [0, *sorted(inner), 20]))
        assert saved.covers({"layer.weight"}) and saved.step == 7
        for field, whole in FIELDS.items():
            assert torch.equal(saved.read(field, start, size), whole[start : start + size])


def test_a_whole_field_is_read_by_its_parts(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    save_file({"layer.weight/exp_avg": whole, "layer.weight/step": torch.tensor(3.0)}, tmp_path / "whole")
    assert SavedState([tmp_path / "whole"]).read("layer.weight/exp_avg", 2, 3).tolist() == [2.0, 3.0, 4.0]


def test_no_state_yet(tmp_path):
    save_file({}, tmp_path / "empty")
    assert not SavedState([tmp_path / "empty"]).covers({"layer.weight"})


@pytest.mark.parametrize("parameters", [set(), {"other.weight"}, {"layer.weight", "layer.bias"}])
def test_a_state_of_other_weights_is_refused(tmp_path, parameters):
    saved = SavedState(write(tmp_path, [0, 20]))
    with pytest.raises(ConfigError, match=r"optimiser state is of other weights .*: (layer|other)\.\w+"):
        saved.covers(parameters)


def test_a_state_with_a_part_missing_is_refused(tmp_path):
    saved = SavedState(write(tmp_path, [0, 8, 20])[:1])
    assert saved.read("layer.weight/exp_avg", 0, 8).tolist() == list(range(8))
    with pytest.raises(ConfigError, match=r"lacks 3 numbers of layer\.weight/exp_avg"):
        saved.read("layer.weight/exp_avg", 5, 6)
