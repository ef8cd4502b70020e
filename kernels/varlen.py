"""Attention from pieces of queries to pieces of keys: the operators of each type of device."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from advgame.kernels.packs import Bounds

aten = torch.ops.aten


class Forward(Protocol):
    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Bounds, keys: Bounds, causal: bool, scale: float, /
    ) -> tuple[Tensor, Tensor]:
        """(output [T, Hq, D], log-sum-exp of the scores [Hq, T]) of query [T, Hq, D], key and value [S, Hkv, D].

        Args:
            queries, keys: the pieces; piece i of the queries sees piece i of the keys.
            causal: whether a token sees its own piece up to itself only.
            scale: of the scores.
        """


class Backward(Protocol):
    def __call__(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        queries: Bounds,
        keys: Bounds,
        causal: bool,
        scale: float,
        /,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients with respect to query, key and value, from what Forward takes and returns."""


class Operators(NamedTuple):
    """The two halves of differentiable attention."""

    forward: Forward
    backward: Backward


def _cpu_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Bounds, keys: Bounds, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    out, lse = torch.empty_like(query), query.new_empty(query.size(1), len(query), dtype=lse_dtype)
    for q, k in _pieces(queries, keys):
        parts = _heads_first(query[q]), *(_heads_first(t[k], query.size(1)) for t in (key, value))
        piece, piece_lse = aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, causal, scale=scale)
        lost = piece_lse == 0  # what the operator makes of scores that are all NaN, with an output of 0
        if lost.any():
            lost &= (parts[0] * (parts[1] if causal else parts[1][:, :, :1])).sum(-1).isnan()
            piece[lost] = piece_lse[lost] = torch.nan
        out[q], lse[:, q] = piece[0].transpose(0, 1), piece_lse[0]
    return out, lse


def _cpu_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Bounds,
    keys: Bounds,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
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


def _cuda_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Bounds, keys: Bounds, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse, *_ = aten._flash_attention_forward(
        query, key, value, queries.device, keys.device, queries.longest, keys.longest, 0.0, causal, False, scale=scale
    )
    return out, lse


def _cuda_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Bounds,
    keys: Bounds,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    no_dropout = torch.empty(2, dtype=torch.uint64, device=query.device), query.new_empty(0)
    return aten._flash_attention_backward(
        grad_out, query, key, value, out, lse, queries.device, keys.device, queries.longest, keys.longest,
        0.0, causal, *no_dropout, scale=scale,
    )  # fmt: skip


OPERATORS = {"cpu": Operators(_cpu_forward, _cpu_backward), "cuda": Operators(_cuda_forward, _cuda_backward)}
"""By type of device. On CUDA both are aten's FlashAttention, or what activate_flash_attention puts in its place."""


def _pieces(queries: Bounds, keys: Bounds) -> Iterator[tuple[slice, slice]]:
    """(slice of the queries, slice of the keys) of each piece that has queries."""
    for i in range(len(queries.host) - 1):
        q, k = slice(*queries.host[i : i + 2]), slice(*keys.host[i : i + 2])
        if q.start < q.stop:
            yield q, k


def _heads_first(piece: Tensor, heads: int | None = None) -> Tensor:
    """[1, heads, t, D] from [t, H, D]; a head that serves several is repeated."""
    piece = piece.transpose(0, 1)
    if heads is not None and heads != len(piece):
        piece = piece.repeat_interleave(heads // len(piece), 0)
    return piece[None]
