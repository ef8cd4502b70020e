"""The backend for GPUs, in Triton. Nothing here waits for the device."""
# mypy: disable-error-code="import-untyped"

from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from advgame.kernels.backend import Gradients, Head, Statistics
from advgame.kernels.triton import launch
from advgame.kernels.triton.backward import scale_kernel
from advgame.kernels.triton.blocks import blocks_of
from advgame.kernels.triton.columns import LEVELS
from advgame.kernels.triton.forward import TILE, combine_kernel
from advgame.kernels.triton.steps import Chunk, accumulate, choose_columns, subtract_tail

__all__ = [
    "CHUNK_TOKENS",
    "LEVELS",
    "ROUNDS",
    "TILE",
    "head_backward",
    "head_forward",
    "probs_buffer",
    "scale",
    "weight_sums",
]

CHUNK_TOKENS = 2048
"""Tokens whose probabilities are held at a time."""
ROUNDS = 4
"""The gathered dL of a chunk holds 1 / ROUNDS of the vocabulary. All rounds are launched, so that the host need not
know how many columns are kept; those that have none left end at once."""


def weight_sums(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """For a bfloat16 weight a bfloat16 sum, which is the result, and eight more bits: together as good as float32."""
    if weight.dtype == torch.bfloat16:
        return weight.new_zeros(weight.shape), weight.new_zeros(weight.shape, dtype=torch.int8)
    return weight.new_zeros(weight.shape, dtype=torch.float32), None


def scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies a gradient by a scalar tensor, in place."""
    if gradient.numel() == 0:
        return
    scale_kernel[(triton.cdiv(gradient.numel(), launch.SCALE["BLOCK"]),)](
        gradient, factor, gradient.numel(), **launch.SCALE
    )


def probs_buffer(tokens: int, weight: Tensor) -> Tensor:
    """In half precision, which holds exp(logit - max) to 2^-12, from 1 down to 6e-8; in float32 for float32 weights."""
    dtype = torch.float32 if weight.dtype == torch.float32 else torch.float16
    return weight.new_empty(weight.size(0) * _padded(tokens), dtype=dtype)


def head_forward(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    with_entropy: bool,
    exact: bool,
    probs: Tensor | None,
    *,
    descriptors: bool | None = None,
) -> Statistics:
    """See backend.Backend. descriptors: load blocks by TMA descriptor; None means if the card can."""
    n, vocab = hidden.size(0), head.weight.size(0)
    padded, tiles = _padded(n), triton.cdiv(vocab, TILE)

    def empty(*shape: int) -> Tensor:
        return hidden.new_empty(shape, dtype=torch.float32)

    tile_max, tile_sum = empty(tiles, padded), empty(tiles, padded)
    tile_weighted = empty(tiles, padded) if with_entropy else None
    tile_mass = empty(tiles, padded) if head.logit_softcap else None
    logps, lse, target_logit = empty(n), empty(n), empty(n)
    entropy, mass = empty(n if with_entropy else 0), empty(n if head.logit_softcap else 0)
    if n == 0:
        return Statistics(logps, target_logit, lse, entropy, tile_max, mass)
    hidden, weight = hidden.contiguous(), head.weight.contiguous()
    if probs is not None:
        probs = probs[: vocab * padded].view(vocab, padded)
    blocks = _loader(descriptors)
    launch.launch_forward(
        lambda meta: (triton.cdiv(vocab, meta["BLOCK_V"]) * (padded // meta["BLOCK_T"]),), hidden.element_size(),
        hidden=blocks(hidden), weight=blocks(weight), bias=head.bias, targets=targets.contiguous(),
        probs=None if probs is None else blocks(probs),
        tile_max=tile_max, tile_sum=tile_sum, tile_weighted=tile_weighted, tile_mass=tile_mass,
        target_logit=target_logit, n=n, padded=padded, vocab=vocab, width=hidden.size(1),
        softcap=head.logit_softcap, inverse_temperature=1 / head.temperature,
        PRECISION=launch.precision(hidden), TILE=TILE,
    )  # fmt: skip
    combine_kernel[(triton.cdiv(n, launch.COMBINE["BLOCK_T"]),)](
        tile_max, tile_sum, tile_weighted, tile_mass, target_logit, logps, lse, entropy, mass, n, padded, tiles,
        **launch.COMBINE,
    )  # fmt: skip
    return Statistics(logps, target_logit, lse, entropy, tile_max, mass)


def head_backward(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    coef: Tensor,
    slope: Tensor,
    stats: Statistics,
    probs: Tensor,
    filter_eps: float,
    gradients: Gradients,
    *,
    rounds: int = ROUNDS,
    descriptors: bool | None = None,
) -> None:
    """See backend.Backend. rounds: as ROUNDS. descriptors: as in head_forward."""
    if hidden.size(0) == 0:
        return
    coef = coef / head.temperature
    hidden, weight, targets = hidden.contiguous(), head.weight.contiguous(), targets.contiguous()
    chunk = Chunk(probs, stats.tile_max, stats.lse, coef, slope, targets, head.weight.size(0))
    kept, tail = choose_columns(chunk, stats.logps, filter_eps)
    mass = accumulate(chunk, kept, hidden, weight, gradients, rounds, _loader(descriptors))
    if tail is not None and gradients.hidden is not None:
        subtract_tail(gradients.hidden, weight, coef, stats.mass, mass, tail)


def _loader(descriptors: bool | None) -> Callable[[Tensor], Tensor | TensorDescriptor]:
    """Turns a matrix into what kernels load its blocks from: a descriptor, or the matrix as it is."""
    by_descriptor = launch.has_tma(launch.generation()) if descriptors is None else descriptors
    return blocks_of if by_descriptor else lambda matrix: matrix


def _padded(tokens: int) -> int:
    return triton.cdiv(tokens, 128) * 128
