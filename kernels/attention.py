"""Attention over packs of sequences that share prefixes: an instruction, a prompt, a conversation so far.

A pack is a forest: a segment of tokens goes on from the end of its parent, and no prefix stands twice. Segments stand
in order of depth. A token sees its own segment up to itself, and all of those that its segment descends from. That is
one plain causal attention of all segments, each by itself, and one without a mask for each two depths: the segments of
the upper one are neighbouring keys, what descends from each of them neighbouring queries. The outputs are merged by
their log-sum-exps.

The log-sum-exps that the operators return are not differentiable, so the merge is not left to autograd. The gradient of
a part's scores depends on the rest of the softmax through its output and log-sum-exp alone (Dao 2023, arXiv 2307.08691,
algorithm 2): each part's own backward operator, given the merged ones, makes the gradients of the whole.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import require

aten = torch.ops.aten


@dataclass(frozen=True)
class Bounds:
    """Where each of N neighbouring pieces begins, and where the last one ends, counted from the first one's begin."""

    host: list[int]
    """[N + 1], rising from 0."""
    device: Tensor
    """The same, int32, where the pack is."""
    longest: int
    """Tokens."""


@dataclass(frozen=True)
class Descent:
    """The N segments of one depth, as keys, and all tokens of another depth that descend from them, as queries."""

    queries: Bounds
    """[N + 1], what descends from each of the N."""
    keys: Bounds
    """[N + 1], the N themselves."""
    query_tokens: slice
    """Of the pack."""
    key_tokens: slice


@dataclass(frozen=True)
class PrefixTree:
    """A pack's layout."""

    segments: Bounds
    """Of all segments, in the pack's order."""
    descents: list[Descent]


def prefix_tree(lengths: list[int], parents: list[int | None], device: torch.device) -> PrefixTree:
    """The layout of a pack.

    Args:
        lengths: tokens of each segment, at least one where another goes on from it.
        parents: the segment that each goes on from, None for one that begins its sequence. Segments stand in order of
            depth, and those of one depth in the order of their parents.

    Raises ValueError, naming the argument, for any other order and for a parent without tokens.
    """
    given = len(parents)
    require(given == len(lengths), f"parents: expected one for each of the {len(lengths)} segments, got {given}")
    depths: list[int] = []
    for segment, parent in enumerate(parents):
        known = parent is None or 0 <= parent < segment
        require(known, f"parents: segment {segment} goes on from {parent}, which does not stand before it")
        require(parent is None or lengths[parent] > 0, f"lengths: segment {parent} has children, but no tokens")
        depths.append(0 if parent is None else depths[parent] + 1)
    order = [(depth, -1 if parent is None else parent) for depth, parent in zip(depths, parents, strict=True)]
    require(order == sorted(order), f"parents: expected the order of depth, then of parents, got {parents}")

    segments, descents = _bounds(lengths, device), []
    levels = [range(bisect_left(depths, d), bisect_right(depths, d)) for d in range(max(depths, default=0) + 1)]
    for low, queries in enumerate(levels):
        if segments.host[queries.start] == segments.host[queries.stop]:
            continue  # completions of a single token, which predicts nothing
        ancestors = list(queries)
        for keys in reversed(levels[:low]):
            ancestors = [parents[segment] for segment in ancestors]
            tokens = dict.fromkeys(keys, 0)
            for segment, ancestor in zip(queries, ancestors, strict=True):
                tokens[ancestor] += lengths[segment]
            descents.append(
                Descent(
                    _bounds(list(tokens.values()), device),
                    _bounds([lengths[segment] for segment in keys], device),
                    slice(segments.host[queries.start], segments.host[queries.stop]),
                    slice(segments.host[keys.start], segments.host[keys.stop]),
                )
            )
    return PrefixTree(segments, descents)


def shared_prefix_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PrefixTree, *, scale: float | None = None
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
    require(tokens == layout.segments.host[-1], f"query: expected [{layout.segments.host[-1]}, Hq, D] as in layout, "
            f"got {list(query.shape)}")  # fmt: skip
    for name, tensor in (("key", key), ("value", value)):
        fits = tensor.dim() == 3 and tensor.shape[::2] == (tokens, width) and 0 < tensor.size(1) <= heads
        fits = fits and heads % tensor.size(1) == 0
        require(fits, f"{name}: expected [{tokens}, Hkv, {width}] with Hkv dividing {heads}, got {list(tensor.shape)}")
        same = tensor.dtype == query.dtype and tensor.device == query.device
        require(same, f"{name}: {tensor.dtype} on {tensor.device}, but query is {query.dtype} on {query.device}")
    half = query.dtype in (torch.float16, torch.bfloat16)
    require(half or not query.is_cuda, f"query: on CUDA expected float16 or bfloat16, got {query.dtype}; use autocast")
    return _SharedPrefixAttention.apply(query, key, value, layout, width**-0.5 if scale is None else scale)


class _SharedPrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, layout, scale):
        attend = _cuda_forward if query.is_cuda else _cpu_forward
        out, lse = attend(query, key, value, layout.segments, layout.segments, True, scale)  # [T, H, D], [H, T]
        for part in layout.descents:
            q, k = part.query_tokens, part.key_tokens
            above, above_lse = attend(query[q], key[k], value[k], part.queries, part.keys, False, scale)
            merged = torch.logaddexp(lse[:, q], above_lse)
            share = torch.exp(lse[:, q] - merged).T[:, :, None].to(out.dtype)
            out[q] = torch.lerp(above, out[q], share)
            lse[:, q] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, out, lse = ctx.saved_tensors
        gradients = _cuda_backward if query.is_cuda else _cpu_backward
        grad_out, own = grad_out.contiguous(), ctx.layout.segments
        d_query, d_key, d_value = gradients(grad_out, query, key, value, out, lse, own, own, True, ctx.scale)
        for part in ctx.layout.descents:
            q, k = part.query_tokens, part.key_tokens
            above = gradients(
                grad_out[q], query[q], key[k], value[k], out[q], lse[:, q].contiguous(),
                part.queries, part.keys, False, ctx.scale,
            )  # fmt: skip
            d_query[q] += above[0]
            d_key[k] += above[1]
            d_value[k] += above[2]
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
