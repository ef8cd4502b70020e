"""Norms and gated activations against their formulas in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from advgame.kernels.layers import rms_norm, silu_gate

DTYPES = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)]
"""Of a norm's input and output."""


def formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def tolerance(*dtypes: torch.dtype) -> float:
    return 4e-3 if torch.bfloat16 in dtypes else 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 100), st.sampled_from(DTYPES), st.integers(0, 99))
def test_norms_equal_the_formula(rows, width, dtypes, seed):
    x, weight = normal(rows, width, dtype=dtypes[0], seed=seed).requires_grad_(), normal(width, seed=seed + 1)
    weight.requires_grad_()
    y = rms_norm(x, weight, 1e-5, dtypes[1])
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = formula(*exact, 1e-5)
    upstream = normal(rows, width, dtype=dtypes[1], seed=seed + 2)
    assert y.dtype == dtypes[1] and error(y, expected) < tolerance(*dtypes)
    gradients = torch.autograd.grad(y, (x, weight), upstream)
    reference = torch.autograd.grad(expected, exact, upstream.double())
    scale = max(g.norm().item() for g in reference)
    for leaf, a, e in zip((x, weight), gradients, reference, strict=True):
        assert a.dtype == leaf.dtype and (a.double() - e).norm() < 2 * tolerance(*dtypes) * max(e.norm(), scale)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 100), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 99))
def test_gates_equal_the_formula(rows, width, dtype, seed):
    gate, up = (normal(rows, width, dtype=dtype, seed=seed + i).mul(4).requires_grad_() for i in range(2))
    exact = [t.detach().double().requires_grad_() for t in (gate, up)]
    y, expected = silu_gate(gate, up), silu(exact[0]) * exact[1]
    assert y.dtype == dtype and error(y, expected) < tolerance(dtype)
    upstream = normal(rows, width, dtype=dtype, seed=seed + 2)
    gradients = torch.autograd.grad(y, (gate, up), upstream)
    reference = torch.autograd.grad(expected, exact, upstream.double())
    for a, e in zip(gradients, reference, strict=True):
        assert a.dtype == dtype and error(a, e) < tolerance(dtype)


def test_gradcheck():
    x, weight, up = (normal(*shape).double().requires_grad_() for shape in [(3, 5), (5,), (3, 5)])
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))
    assert torch.autograd.gradcheck(silu_gate, (x, up))


def test_shapes_and_strides():
    x, weight = normal(2, 3, 8), normal(8)
    assert torch.equal(rms_norm(x, weight, 1e-5).flatten(0, 1), rms_norm(x.flatten(0, 1), weight, 1e-5))
    turned = x.transpose(0, 1)
    assert torch.equal(rms_norm(turned, weight, 1e-5), rms_norm(turned.contiguous(), weight, 1e-5))
    assert torch.equal(silu_gate(turned, turned), silu_gate(turned.contiguous(), turned.contiguous()))
    sliced = normal(3, 16)[:, ::2]
    assert torch.equal(rms_norm(sliced, weight, 1e-5), rms_norm(sliced.contiguous(), weight, 1e-5))
    assert rms_norm(x[:0], weight, 1e-5).shape == (0, 3, 8) and silu_gate(x[:0], x[:0]).shape == (0, 3, 8)


def test_a_row_does_not_depend_on_its_neighbours():
    x, weight = normal(50, 24), normal(24)
    whole, gates = rms_norm(x, weight, 1e-5), silu_gate(x, x.flip(0))
    for row in (0, 17, 49):
        assert torch.equal(whole[row], rms_norm(x[row], weight, 1e-5))
        assert torch.equal(gates[row], silu_gate(x[row], x[49 - row]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_lost_stays_lost(dtype):
    """NaN stays NaN in its own row or place; large numbers neither overflow where they need not nor turn into NaN."""
    x = torch.ones(3, 20, dtype=dtype)
    x[1, 4] = torch.nan
    assert rms_norm(x, torch.ones(20), 1e-5).isfinite().all(-1).tolist() == [True, False, True]
    gate = torch.tensor([[-1e30, -100.0, -90.0, 0.0, 90.0, 1e30, torch.nan]], dtype=dtype)
    y = silu_gate(gate, torch.ones_like(gate))[0]
    assert y[:4].abs().max() < 1e-35 and torch.equal(y[4:6], gate[0, 4:6]) and y[6].isnan()
    assert silu_gate(torch.ones_like(gate), gate)[0, 6].isnan()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"^weight: expected \[8\] as x, got \[7\]"):
        rms_norm(torch.zeros(2, 8), torch.zeros(7), 1e-5)
    with pytest.raises(ValueError, match=r"^up: expected \[2, 8\] torch.float32 as gate, got \[8\] torch.float32"):
        silu_gate(torch.zeros(2, 8), torch.zeros(8))
    with pytest.raises(ValueError, match=r"^up: expected \[8\] torch.float32 as gate, got \[8\] torch.bfloat16"):
        silu_gate(torch.zeros(8), torch.zeros(8, dtype=torch.bfloat16))
