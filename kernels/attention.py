"""Attention over packs of sequences that share prefixes: a token sees its own segment up to itself, and all segments
that its own descends from."""

import math
from typing import Any

import torch
from torch import Tensor

from advgame.kernels.arguments import require
from advgame.kernels.extension import BUILT
from advgame.kernels.merged import attend_in_parts, differentiate_in_parts
from advgame.kernels.packs import PrefixTree


def shared_prefix_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PrefixTree, *, scale: float | None = None
) -> Tensor:
    """Softmax attention over a pack, differentiable.

    On CPUs an operator of csrc/ computes it, in float32 or float64 throughout. On CUDA FlashAttention's operators for
    variable lengths compute parts of it, which are merged (kernels/merged.py).

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
        if BUILT and query.is_cpu:
            out, lse = torch.ops.advgame.forest_attention(query, key, value, *_forest(layout), scale)
        else:
            out, lse = attend_in_parts(query, key, value, layout, scale)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        if BUILT and grad_out.is_cpu:
            gradients = torch.ops.advgame.forest_attention_backward(
                grad_out, query, key, value, out, lse, *_forest(ctx.layout), ctx.scale
            )
        else:
            gradients = differentiate_in_parts(grad_out, query, key, value, out, lse, ctx.layout, ctx.scale)
        return *gradients, None, None


def _forest(layout: PrefixTree) -> tuple[list[int], list[int]]:
    return layout.segments.host, layout.parents
