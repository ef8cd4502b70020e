"""Attention over packs whose completions share their group's prompt.

A pack is the tokens of its prompts, one behind another, and then those of its completions, group by group. A token sees
its own sequence up to itself and, in a completion, all of its group's prompt. That is two plain attentions: every
sequence by itself, causal; and the completions of a group over its prompt, without a mask. Their outputs are merged by
their log-sum-exps.

The log-sum-exps that the operators return are not differentiable, so the merge is not left to autograd. The gradient of
a part's scores depends on the rest of the softmax through its output and log-sum-exp alone (Dao 2023, arXiv 2307.08691,
algorithm 2): each part's own backward operator, given the merged ones, makes the gradients of the whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import require

aten = torch.ops.aten


@dataclass(frozen=True)
class Bounds:
    """Where each of N neighbouring pieces begins, and where the last one ends."""

    host: list[int]
    """[N + 1], rising from 0."""
    device: Tensor
    """The same, int32, where the pack is."""
    longest: int
    """Tokens."""


@dataclass(frozen=True)
class SharedPrompts:
    """A pack's layout: G groups with S completions in all."""

    prompts: Bounds
    """Of the G prompts."""
    completions: Bounds
    """Of what each of the G groups has of completions, counted from the first completion's first token."""
    sequences: Bounds
    """Of the G prompts and the S completions."""


def shared_prompts(prompts: list[int], completions: list[list[int]], device: torch.device) -> SharedPrompts:
    """The layout of groups with these numbers of tokens: of each prompt, and of each of its completions.

    Raises ValueError for a prompt without tokens.
    """
    require(min(prompts, default=1) > 0, f"prompts: expected at least one token in each, got {prompts}")
    by_group = [sum(lengths) for lengths in completions]
    every = [*prompts, *(length for lengths in completions for length in lengths)]
    return SharedPrompts(*(_bounds(lengths, device) for lengths in (prompts, by_group, every)))


def shared_prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: SharedPrompts, *, scale: float | None = None
) -> Tensor:
    """Softmax attention over a pack, differentiable; on CUDA by FlashAttention's varlen operators.

    Args:
        query: [T, Hq, D], floating point; on CUDA float16 or bfloat16.
        key, value: [T, Hkv, D]; Hkv divides Hq, and each key head serves Hq / Hkv neighbouring query heads.
        layout: of the T tokens.
        scale: of the scores; None is D ** -0.5.

    Returns: [T, Hq, D].

    Raises:
        ValueError: a wrong shape, dtype or device; the message names the argument.
    """
    tokens, heads, width = query.shape if query.dim() == 3 else (-1, -1, -1)
    require(tokens == layout.sequences.host[-1], f"query: expected [{layout.sequences.host[-1]}, Hq, D] as in layout, "
            f"got {list(query.shape)}")  # fmt: skip
    for name, tensor in (("key", key), ("value", value)):
        fits = tensor.dim() == 3 and tensor.shape[::2] == (tokens, width) and 0 < tensor.size(1) <= heads
        fits = fits and heads % tensor.size(1) == 0
        require(fits, f"{name}: expected [{tokens}, Hkv, {width}] with Hkv dividing {heads}, got {list(tensor.shape)}")
        same = tensor.dtype == query.dtype and tensor.device == query.device
        require(same, f"{name}: {tensor.dtype} on {tensor.device}, but query is {query.dtype} on {query.device}")
    half = query.dtype in (torch.float16, torch.bfloat16)
    require(half or not query.is_cuda, f"query: on CUDA expected float16 or bfloat16, got {query.dtype}; use autocast")
    return _SharedPromptAttention.apply(query, key, value, layout, width**-0.5 if scale is None else scale)


class _SharedPromptAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, layout, scale):
        attend = _cuda_forward if query.is_cuda else _cpu_forward
        own, prompts, completions = layout.sequences, layout.prompts, layout.completions
        out, lse = attend(query, key, value, own, own, True, scale)  # [T, H, D], [H, T]
        first = prompts.host[-1]
        if first < len(query):
            over_prompt = attend(query[first:], key[:first], value[:first], completions, prompts, False, scale)
            merged = torch.logaddexp(lse[:, first:], over_prompt[1])
            share = torch.exp(lse[:, first:] - merged).T[:, :, None].to(out.dtype)
            out[first:] = torch.lerp(over_prompt[0], out[first:], share)
            lse[:, first:] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, out, lse = ctx.saved_tensors
        gradients = _cuda_backward if query.is_cuda else _cpu_backward
        own, prompts, completions = ctx.layout.sequences, ctx.layout.prompts, ctx.layout.completions
        grad_out = grad_out.contiguous()
        d_query, d_key, d_value = gradients(grad_out, query, key, value, out, lse, own, own, True, ctx.scale)
        first = prompts.host[-1]
        if first < len(query):
            late, early = slice(first, None), slice(0, first)
            over_prompt = gradients(
                grad_out[late], query[late], key[early], value[early], out[late], lse[:, late].contiguous(),
                completions, prompts, False, ctx.scale,
            )  # fmt: skip
            d_query[late] += over_prompt[0]
            d_key[early] += over_prompt[1]
            d_value[early] += over_prompt[2]
        return d_query, d_key, d_value, None, None


def _cpu_forward(query, key, value, queries: Bounds, keys: Bounds, causal: bool, scale: float):
    """Piece by piece: (out [T, H, D], lse [H, T])."""
    out, lse = torch.empty_like(query), query.new_empty(query.size(1), len(query), dtype=_lse_dtype(query))
    for q, k in _pieces(queries, keys):
        parts = _heads_first(query[q]), *(_heads_first(t[k], query.size(1)) for t in (key, value))
        piece, piece_lse = aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, causal, scale=scale)
        out[q], lse[:, q] = piece[0].transpose(0, 1), piece_lse[0]
    return out, lse


def _cpu_backward(grad_out, query, key, value, out, lse, queries: Bounds, keys: Bounds, causal: bool, scale: float):
    gradients = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for q, k in _pieces(queries, keys):
        parts = [_heads_first(grad_out[q]), _heads_first(query[q])]
        parts += [_heads_first(t[k], query.size(1)) for t in (key, value)]
        d_query, d_key, d_value = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *parts, _heads_first(out[q]), lse[None, :, q], 0.0, causal, scale=scale
        )
        gradients[0][q] = d_query[0].transpose(0, 1)
        for gradient, by_head in ((gradients[1], d_key), (gradients[2], d_value)):  # summed over heads that share a key
            gradient[k] = by_head[0].unflatten(0, (key.size(1), -1)).sum(1).transpose(0, 1)
    return gradients


def _cuda_forward(query, key, value, queries: Bounds, keys: Bounds, causal: bool, scale: float):
    out, lse, *_ = aten._flash_attention_forward(
        query, key, value, queries.device, keys.device, queries.longest, keys.longest, 0.0, causal, False, scale=scale
    )
    return out, lse


def _cuda_backward(grad_out, query, key, value, out, lse, queries: Bounds, keys: Bounds, causal: bool, scale: float):
    no_dropout = torch.empty(2, dtype=torch.uint64, device=query.device), query.new_empty(0)
    return aten._flash_attention_backward(
        grad_out, query, key, value, out, lse, queries.device, keys.device, queries.longest, keys.longest,
        0.0, causal, *no_dropout, scale=scale,
    )  # fmt: skip


def _pieces(queries: Bounds, keys: Bounds):
    """(slice of the queries, slice of the keys) of each piece that has any."""
    for i in range(len(queries.host) - 1):
        q, k = slice(*queries.host[i : i + 2]), slice(*keys.host[i : i + 2])
        if q.start < q.stop:
            yield q, k


def _heads_first(piece: Tensor, heads: int | None = None) -> Tensor:
    """[1, heads, t, D] of [t, H, D]; a head that serves several is repeated."""
    piece = piece.transpose(0, 1)
    if heads is not None and heads != len(piece):
        piece = piece.repeat_interleave(heads // len(piece), 0)
    return piece[None]


def _lse_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _bounds(lengths: list[int], device: torch.device) -> Bounds:
    host = [0]
    for length in lengths:
        host.append(host[-1] + length)
    return Bounds(host, torch.tensor(host, dtype=torch.int32, device=device), max(lengths, default=0))
