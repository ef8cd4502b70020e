"""Attention over packs of sequences that share prefixes.

A token sees its own segment up to itself, and all segments that its own descends from. This is one causal attention
within the segments, and one attention without a mask for each pair of depths: the segments of the upper depth are
neighbouring keys, and the descendants of each of them are neighbouring queries. The outputs are merged by their
log-sum-exps.

The operators' log-sum-exps are not differentiable, so the merge is not left to autograd. The gradient of a part's
scores depends on the rest of the softmax through the output and the log-sum-exp alone (Dao 2023, arXiv 2307.08691,
algorithm 2): given the merged ones, each part's own backward operator computes its share of the whole's gradients.
"""

import math
from typing import Any

import torch
from torch import Tensor

from advgame.kernels.arguments import require
from advgame.kernels.packs import PrefixTree
from advgame.kernels.varlen import OPERATORS


def shared_prefix_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PrefixTree, *, scale: float | None = None
) -> Tensor:
    """Softmax attention over a pack, differentiable; on CUDA by FlashAttention's operators for variable lengths.

    Args:
        query: [T, Hq, D], floating point; on CUDA float16 or bfloat16.
        key, value: [T, Hkv, D]; Hkv divides Hq, and each key head serves Hq / Hkv neighbouring query heads.
        layout: the pack's, from prefix_tree.
        scale: factor of the scores; None is D ** -0.5.

    Returns: [T, Hq, D].

    Raises:
        ValueError: a wrong shape, dtype or device; the message names the argument.
    """
    tokens, heads, width = query.shape if query.dim() == 3 else (-1, -1, -1)
    expected = layout.segments.host[-1]
    require(tokens == expected, f"query: expected [{expected}, Hq, D] as in layout, got {list(query.shape)}")
    for name, tensor in (("key", key), ("value", value)):
        fits = tensor.dim() == 3 and tensor.shape[::2] == (tokens, width) and 0 < tensor.size(1) <= heads
        fits = fits and heads % tensor.size(1) == 0
        require(fits, f"{name}: expected [{tokens}, Hkv, {width}] with Hkv dividing {heads}, got {list(tensor.shape)}")
        same = tensor.dtype == query.dtype and tensor.device == query.device
        require(same, f"{name}: {tensor.dtype} on {tensor.device}, but query is {query.dtype} on {query.device}")
    half = query.dtype in (torch.float16, torch.bfloat16)
    require(half or not query.is_cuda, f"query: on CUDA expected float16 or bfloat16, got {query.dtype}; use autocast")
    require(scale is None or math.isfinite(scale), f"scale: expected a finite number or None, got {scale}")
    return _SharedPrefixAttention.apply(query, key, value, layout, width**-0.5 if scale is None else scale)


class _SharedPrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PrefixTree, scale: float) -> Tensor:
        attend = OPERATORS["cuda" if query.is_cuda else "cpu"].forward
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
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        differentiate = OPERATORS["cuda" if query.is_cuda else "cpu"].backward
        grad_out, own = grad_out.contiguous(), ctx.layout.segments
        d_query, d_key, d_value = differentiate(grad_out, query, key, value, out, lse, own, own, True, ctx.scale)
        for part in ctx.layout.descents:
            q, k = part.query_tokens, part.key_tokens
            above = differentiate(
                grad_out[q], query[q], key[k], value[k], out[q], lse[:, q].contiguous(),
                part.queries, part.keys, False, ctx.scale,
            )  # fmt: skip
            d_query[q] += above[0]
            d_key[k] += above[1]
            d_value[k] += above[2]
        return d_query, d_key, d_value, None, None
