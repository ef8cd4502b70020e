"""Products with packed weights: against float64, and a row's result does not depend on the rows beside it."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgame.kernels.packed import PackedWeight, pack_weight, packed_linear

DTYPES = [torch.float32, torch.bfloat16]


def needs_packing(dtype: torch.dtype) -> None:
    if pack_weight(torch.zeros(2, 2, dtype=dtype)).columns is None:
        pytest.skip(f"this processor does not multiply packed weights of {dtype}")


@given(
    rows=st.integers(0, 20),
    inner=st.integers(1, 70),
    columns=st.sampled_from([1, 2, 15, 63, 64, 65, 130]),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_against_float64(rows, inner, columns, dtype, with_bias, whole, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, inner, generator=generator).to(dtype) for n in (rows, columns))
    bias = torch.randn(columns, generator=generator) if with_bias else None
    actual = packed_linear(x, pack_weight(weight), bias, whole=whole)
    assert actual.dtype == (torch.float32 if whole else dtype) and actual.shape == (rows, columns)
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    rounding = 1e-5 if actual.dtype == torch.float32 else 2**-7
    assert torch.allclose(actual.double(), expected, rtol=rounding, atol=1e-4 if rounding == 1e-5 else 0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype):
    needs_packing(dtype)
    x, weight = torch.randn(23, 96).to(dtype), pack_weight(torch.randn(200, 96).to(dtype))
    together = packed_linear(x, weight, whole=True)
    for size in (1, 2, 5, 6, 7, 22):
        apart = torch.cat([packed_linear(part, weight, whole=True) for part in x.split(size)])
        assert torch.equal(together, apart)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row_or_column(dtype, value):
    x, weight = torch.randn(7, 32).to(dtype), torch.randn(70, 32).to(dtype)
    x[3, 5] = value
    out = packed_linear(x, pack_weight(weight))
    assert not out[3].isfinite().any() and out[[0, 1, 2, 4, 5, 6]].isfinite().all()
    x, weight[66, 1] = torch.randn(7, 32).to(dtype), value
    out = packed_linear(x, pack_weight(weight))
    assert not out[:, 66].isfinite().any() and out[:, :66].isfinite().all() and out[:, 67:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_shape_and_strides(dtype):
    x, weight = torch.randn(32, 3, 2).to(dtype).permute(2, 1, 0), torch.randn(32, 10).to(dtype).T
    out = packed_linear(x, pack_weight(weight))
    assert out.shape == (2, 3, 10)
    assert torch.allclose(out.double(), x.double() @ weight.double().T, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_packed_weight_is_a_copy():
    weight = torch.randn(10, 33)  # an odd number of columns is not packed
    for w in (weight, weight[:, :32]):
        copied = pack_weight(w)
        before = packed_linear(torch.ones(1, w.size(1)), copied)
        w.zero_()
        assert torch.equal(packed_linear(torch.ones(1, w.size(1)), copied), before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.zeros(3, 31)}, "x"),
        ({"x": torch.zeros(3, 32).double()}, "x"),
        ({"bias": torch.zeros(9)}, "bias"),
        ({"bias": torch.zeros(10).double()}, "bias"),
        ({"weight": PackedWeight(torch.zeros(1, 32, 64), 65)}, "packed"),
        ({"weight": PackedWeight(torch.zeros(1, 32, 64).double(), 10)}, "packed"),
        ({"weight": PackedWeight(torch.zeros(1, 32, 64), 0)}, "columns"),
    ],
)
def test_bad_arguments_are_named(change, named):
    needs_packing(torch.float32)
    arguments = {"x": torch.zeros(3, 32), "weight": pack_weight(torch.zeros(10, 32)), "bias": None} | change
    with pytest.raises(ValueError, match=f"^{named}"):
        packed_linear(**arguments)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this processor takes AVX2 anyway")
def test_the_same_by_avx2():
    """This file again, with the products of processors that have no AVX-512."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    root = Path(__file__).parents[2]
    result = subprocess.run(
        command,
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
