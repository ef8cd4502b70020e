"""Shared-prompt attention against plain attention under the mask that defines it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from advgame.kernels import attention, shared_prompt_attention, shared_prompts

CPU = torch.device("cpu")
GROUPS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), max_size=4)), min_size=1, max_size=4)


def visible(prompts: list[int], completions: list[list[int]]) -> torch.Tensor:
    """[T, T]: who sees whom, token by token, from the definition."""
    owners = [(g, None) for g, length in enumerate(prompts) for _ in range(length)]
    owners += [
        (g, k) for g, lengths in enumerate(completions) for k, length in enumerate(lengths) for _ in range(length)
    ]
    mask = torch.zeros(len(owners), len(owners), dtype=torch.bool)
    for i, (group, completion) in enumerate(owners):
        for j, (other_group, other) in enumerate(owners):
            mask[i, j] = group == other_group and ((other == completion and j <= i) or (other is None and j <= i))
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


@settings(deadline=None, max_examples=60)
@given(GROUPS, st.sampled_from([(4, 4), (6, 2), (3, 1)]), st.sampled_from([None, 0.7]), st.integers(0, 99))
def test_equals_attention_under_the_mask(groups, heads, scale, seed):
    prompts, completions = [g[0] for g in groups], [g[1] for g in groups]
    layout = shared_prompts(prompts, completions, CPU)
    tensors = inputs(layout.sequences.host[-1], *heads, 8, torch.float64, seed)
    actual = shared_prompt_attention(*tensors, layout, scale=scale)
    expected = masked_attention(*tensors, visible(prompts, completions), scale or 8**-0.5)
    assert torch.allclose(actual, expected, atol=1e-12)
    upstream = torch.randn(actual.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradients = [torch.autograd.grad(out, tensors, upstream) for out in (actual, expected)]
    for a, e in zip(*gradients, strict=True):
        assert torch.allclose(a, e, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_long_sequences(dtype, tolerance):
    prompts, completions = [130, 70], [[90, 150], [64, 1, 33]]
    layout = shared_prompts(prompts, completions, CPU)
    tensors = inputs(layout.sequences.host[-1], 6, 2, 64, dtype)
    actual = shared_prompt_attention(*tensors, layout)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = masked_attention(*exact, visible(prompts, completions), 64**-0.5)
    pairs = [(actual, expected)]
    pairs += zip(torch.autograd.grad(actual.sum(), tensors), torch.autograd.grad(expected.sum(), exact), strict=True)
    for a, e in pairs:
        assert (a.double() - e).norm() < tolerance * e.norm()


def test_gradcheck():
    layout = shared_prompts([3, 2], [[2, 1], [3]], CPU)
    tensors = inputs(11, 4, 2, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *t: shared_prompt_attention(*t, layout), tensors)


def test_strided_heads():
    """As a model hands them over: [heads, T, D], transposed."""
    layout = shared_prompts([5], [[4, 3]], CPU)
    tensors = inputs(12, 4, 2, 8, torch.float32)
    strided = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in tensors]
    upstream = torch.randn(12, 4, 8, generator=torch.Generator().manual_seed(0))
    one, other = (shared_prompt_attention(*t, layout) for t in (tensors, strided))
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
    layout = shared_prompts([5], [[4, 3]], CPU)
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        shared_prompt_attention(*(torch.zeros(shape) for shape in shapes), layout)


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="prompts: expected at least one token in each"):
        shared_prompts([3, 0], [[2], [2]], CPU)


def test_mixed_dtypes_are_refused():
    query, key, value = inputs(12, 4, 4, 8, torch.float32)
    with pytest.raises(ValueError, match=r"value: torch.bfloat16 on cpu, but query is torch.float32"):
        shared_prompt_attention(query, key, value.bfloat16(), shared_prompts([5], [[4, 3]], CPU))


def test_the_operators_for_cuda_have_the_shapes_that_are_merged():
    """Traced without a GPU: [T, H, D] and [H, T] forward, the gradients' shapes backward."""
    with FakeTensorMode():
        own = shared_prompts([5, 3], [[4, 3], [2]], torch.device("cuda")).sequences
        query, key, value = (torch.empty(17, h, 64, device="cuda", dtype=torch.bfloat16) for h in (4, 2, 2))
        out, lse = attention._cuda_forward(query, key, value, own, own, True, 0.1)
        assert (out.shape, lse.shape, lse.dtype) == (query.shape, (4, 17), torch.float32)
        gradients = attention._cuda_backward(out, query, key, value, out, lse, own, own, True, 0.1)
        assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]
