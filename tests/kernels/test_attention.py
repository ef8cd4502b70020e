"""Shared-prefix attention against plain attention under the mask that defines it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from advgame.kernels import attention, prefix_tree, shared_prefix_attention
from advgame.kernels.extension import BUILT
from advgame.kernels.varlen import OPERATORS

CPU = torch.device("cpu")


@pytest.fixture(
    params=[pytest.param(True, marks=pytest.mark.skipif(not BUILT, reason="C++ operators not built")), False],
    ids=["compiled", "in parts"],
)
def path(request, monkeypatch) -> bool:
    """Whether csrc/ computes attention, or operators of PyTorch whose results are merged."""
    monkeypatch.setattr(attention, "BUILT", request.param)
    return request.param


@st.composite
def forests(draw) -> tuple[list[int], list[int | None]]:
    """(lengths, parents) of the segments of a pack, up to four deep."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    parents: list[int | None] = [None] * len(lengths)
    above = range(len(lengths))
    for _ in range(draw(st.integers(0, 3))):
        begin = len(lengths)
        for parent in above:
            if lengths[parent]:
                children = draw(st.lists(st.integers(0, 7), max_size=3))
                lengths, parents = lengths + children, parents + [parent] * len(children)
        above = range(begin, len(lengths))
    return lengths, parents


def visible(lengths: list[int], parents: list[int | None]) -> torch.Tensor:
    """[T, T]: who sees whom, token by token, from the definition."""
    owners = [segment for segment, length in enumerate(lengths) for _ in range(length)]
    mask = torch.zeros(len(owners), len(owners), dtype=torch.bool)
    for i, segment in enumerate(owners):
        line = [segment]
        while parents[line[-1]] is not None:
            line.append(parents[line[-1]])
        for j in range(i + 1):
            mask[i, j] = owners[j] in line
    return mask


def masked_attention(query, key, value, mask, scale) -> torch.Tensor:
    repeat = query.size(1) // key.size(1)
    key, value = (t.repeat_interleave(repeat, 1) for t in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), value)


def inputs(tokens: int, heads: int, key_heads: int, width: int, dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, heads, width), (tokens, key_heads, width), (tokens, key_heads, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forests(), st.sampled_from([(4, 4), (6, 2), (3, 1)]), st.sampled_from([None, 0.7]), st.integers(0, 99))
def test_equals_attention_under_the_mask(path, forest, heads, scale, seed):
    layout = prefix_tree(*forest, CPU)
    tensors = inputs(sum(forest[0]), *heads, 8, torch.float64, seed)
    actual = shared_prefix_attention(*tensors, layout, scale=scale)
    expected = masked_attention(*tensors, visible(*forest), scale or 8**-0.5)
    assert torch.allclose(actual, expected, atol=1e-12)
    upstream = torch.randn(actual.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradients = [torch.autograd.grad(out, tensors, upstream) for out in (actual, expected)]
    for a, e in zip(*gradients, strict=True):
        assert torch.allclose(a, e, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_long_sequences(path, dtype, tolerance):
    forest = [130, 70, 90, 150, 64, 1, 33, 120, 40], [None, None, 0, 0, 1, 1, 1, 2, 4]
    layout = prefix_tree(*forest, CPU)
    tensors = inputs(sum(forest[0]), 6, 2, 64, dtype)
    actual = shared_prefix_attention(*tensors, layout)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = masked_attention(*exact, visible(*forest), 64**-0.5)
    pairs = [(actual, expected)]
    pairs += zip(torch.autograd.grad(actual.sum(), tensors), torch.autograd.grad(expected.sum(), exact), strict=True)
    for a, e in pairs:
        assert (a.double() - e).norm() < tolerance * e.norm()


@pytest.mark.skipif(not BUILT, reason="C++ operators not built")
def test_the_same_on_any_number_of_threads():
    """Bit for bit: how a backward pass is cut depends on the pack alone."""
    lengths, parents = [130, 70, 90, 150, 64, 1, 33], [None, None, 0, 0, 1, 1, 1]
    layout = prefix_tree(lengths, parents, CPU)
    results, usual = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            tensors = inputs(sum(lengths), 6, 2, 64, torch.float32)
            out = shared_prefix_attention(*tensors, layout)
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
        finally:
            torch.set_num_threads(usual)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradcheck(path):
    layout = prefix_tree([3, 2, 2, 1, 2, 3], [None, None, 0, 0, 1, 2], CPU)
    tensors = inputs(13, 4, 2, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *t: shared_prefix_attention(*t, layout), tensors)


def test_strided_heads(path):
    """As a model hands them over: [heads, T, D], transposed."""
    layout = prefix_tree([5, 4, 3], [None, 0, 0], CPU)
    tensors = inputs(12, 4, 2, 8, torch.float32)
    strided = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in tensors]
    upstream = torch.randn(12, 4, 8, generator=torch.Generator().manual_seed(0))
    one, other = (shared_prefix_attention(*t, layout) for t in (tensors, strided))
    assert torch.equal(one, other)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out, leaves in ((one, tensors), (other, strided))]
    assert all(torch.equal(a, e) for a, e in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ([(11, 4, 8), (12, 4, 8), (12, 4, 8)], "query"),
        ([(12, 4), (12, 4, 8), (12, 4, 8)], "query"),
        ([(12, 4, 8), (12, 3, 8), (12, 4, 8)], "key"),
        ([(12, 4, 8), (12, 4, 8), (12, 4, 6)], "value"),
        ([(12, 4, 8), (12, 0, 8), (12, 4, 8)], "key"),
    ],
)
def test_wrong_shapes_are_refused_by_name(shapes, named):
    layout = prefix_tree([5, 4, 3], [None, 0, 0], CPU)
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        shared_prefix_attention(*(torch.zeros(shape) for shape in shapes), layout)


@pytest.mark.parametrize(
    ("lengths", "parents", "message"),
    [
        ([3, -1], [None, 0], "lengths: expected numbers >= 0, got -1"),
        ([2**31], [None], "lengths: 2147483648 tokens in all are more than a pack can address"),
        ([2**30, 2**30], [None, 0], "lengths: 2147483648 tokens in all are more than a pack can address"),
        ([3, 0, 2], [None, None, 1], "lengths: segment 1 has children, but no tokens"),
        ([3, 2], [None, 1], "parents: segment 1 continues segment 1, which does not come before it"),
        ([3, 2, 1], [None, 0, None], "parents: segments must be sorted by depth, then by parent, got"),
        ([3, 2, 1, 1], [None, None, 1, 0], "parents: segments must be sorted by depth, then by parent, got"),
        ([3, 2], [None, 0, 0], "parents: expected one for each of the 2 segments, got 3"),
    ],
)
def test_a_tree_in_another_order_is_refused(lengths, parents, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        prefix_tree(lengths, parents, CPU)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused(scale):
    tensors = inputs(3, 2, 2, 8, torch.float32)
    with pytest.raises(ValueError, match=r"^scale: expected a finite number or None"):
        shared_prefix_attention(*tensors, prefix_tree([3], [None], CPU), scale=scale)


def test_mixed_dtypes_are_refused():
    query, key, value = inputs(12, 4, 4, 8, torch.float32)
    with pytest.raises(ValueError, match=r"value: torch.bfloat16 on cpu, but query is torch.float32"):
        shared_prefix_attention(query, key, value.bfloat16(), prefix_tree([5, 4, 3], [None, 0, 0], CPU))


def test_the_operators_for_cuda_have_the_shapes_that_are_merged():
    """Traced without a GPU: [T, H, D] and [H, T] forward, the gradients' shapes backward."""
    with FakeTensorMode():
        own = prefix_tree([5, 3, 4, 3, 2], [None, None, 0, 0, 1], torch.device("cuda")).segments
        query, key, value = (torch.empty(17, h, 64, device="cuda", dtype=torch.bfloat16) for h in (4, 2, 2))
        out, lse = OPERATORS["cuda"].forward(query, key, value, own, own, True, 0.1)
        assert (out.shape, lse.shape, lse.dtype) == (query.shape, (4, 17), torch.float32)
        gradients = OPERATORS["cuda"].backward(out, query, key, value, out, lse, own, own, True, 0.1)
        assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]
