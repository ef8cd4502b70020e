"""The backward pass of a chunk: choose columns, accumulate their gradients, correct for the dropped ones."""
# mypy: disable-error-code="import-untyped"

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from advgame.kernels.backend import Gradients
from advgame.kernels.triton import launch
from advgame.kernels.triton.backward import gather_kernel, hidden_kernel, weight_kernel
from advgame.kernels.triton.columns import LEVELS, below_kernel, compact_kernel, count_kernel, energy_kernel
from advgame.kernels.triton.forward import TILE


class Chunk(NamedTuple):
    """A chunk of n tokens as head_forward left it. The gradient with respect to its logits is
    dL_tv = coef_t (slope_t onehot_tv - p_tv), p_tv = probs_vt exp(tile_max - lse)_t."""

    probs: Tensor
    """[V, padded]."""
    tile_max: Tensor
    """[tiles, padded]."""
    lse: Tensor
    """[n]."""
    coef: Tensor
    """[n] derivative of the loss with respect to each log-prob, over the temperature."""
    slope: Tensor
    """[n] of the soft-cap, at the target."""
    targets: Tensor
    """[n]."""
    vocab: int


class Kept(NamedTuple):
    """The columns that each group of tokens keeps."""

    columns: Tensor
    """[groups, V] int32; a group's columns come first, ascending."""
    ends: Tensor
    """[groups, blocks] int32, how many are kept up to the end of each block of the vocabulary."""
    counts: Tensor
    """[groups] int32, how many are kept in all."""


def choose_columns(chunk: Chunk, logps: Tensor, filter_eps: float) -> tuple[Kept, Tensor | None]:
    """(the kept columns, [groups, V] the sum of |coef| p of each dropped one, or None if all are kept)."""
    groups = triton.cdiv(chunk.coef.numel(), launch.GROUP_TOKENS)
    energy = tail = threshold = None
    if filter_eps:
        energy, tail, threshold = _threshold(chunk, logps, groups, filter_eps)
    blocks = triton.cdiv(chunk.vocab, launch.COUNT["BLOCK"])
    ends = chunk.lse.new_empty((groups, blocks), dtype=torch.int32)
    count_kernel[(blocks, groups)](energy, threshold, ends, chunk.vocab, **launch.COUNT)
    ends = ends.cumsum(1, dtype=torch.int32)
    columns = ends.new_empty((groups, chunk.vocab))
    compact_kernel[(blocks, groups)](energy, threshold, ends, columns, tail, chunk.vocab, **launch.COUNT)
    return Kept(columns, ends, ends[:, -1].contiguous()), tail


def accumulate(
    chunk: Chunk,
    kept: Kept,
    hidden: Tensor,
    weight: Tensor,
    gradients: Gradients,
    rounds: int,
    blocks: Callable[[Tensor], Tensor | TensorDescriptor],
) -> Tensor:
    """Adds the kept columns' part of the gradients, a share of the vocabulary at a time.

    Returns: [groups, GROUP_TOKENS] float32, each token's probability in the kept columns.
    """
    (n, width), vocab, groups = hidden.shape, chunk.vocab, kept.counts.numel()
    step = launch.GATHER["BLOCK_V"]
    capacity = triton.cdiv(triton.cdiv(vocab, rounds), step) * step
    compact = hidden.new_empty((groups * capacity, launch.GROUP_TOKENS))
    firsts = range(0, vocab, capacity)
    mass = hidden.new_zeros((len(firsts), groups, capacity // step, launch.GROUP_TOKENS), dtype=torch.float32)
    size_class, size = launch.size_class(launch.generation()), hidden.element_size()
    common = {
        "columns": kept.columns, "capacity": capacity, "n": n, "vocab": vocab, "width": width, "groups": groups,
        "PRECISION": launch.precision(hidden), "GROUP_TOKENS": launch.GROUP_TOKENS,
    }  # fmt: skip
    for index, first in enumerate(firsts):
        gather_kernel[(capacity // step, groups)](
            chunk.probs, chunk.tile_max, chunk.lse, chunk.coef, chunk.slope, chunk.targets, kept.columns, kept.counts,
            compact, mass[index], first, capacity, n, chunk.tile_max.size(1), vocab,
            TILE=TILE, GROUP_TOKENS=launch.GROUP_TOKENS, **launch.GATHER,
        )  # fmt: skip
        if gradients.hidden is not None:
            config = launch.HIDDEN[size_class][size]
            blocks_of_tokens = launch.GROUP_TOKENS // config["BLOCK_T"]
            launch.launch(
                hidden_kernel, (triton.cdiv(width, config["BLOCK_H"]), groups * blocks_of_tokens), config,
                compact=blocks(compact), weight=weight, counts=kept.counts, grad_hidden=gradients.hidden, first=first,
                **common,
            )  # fmt: skip
        if gradients.weight is not None or gradients.bias is not None:
            config = launch.WEIGHT[size_class][size]
            slices = triton.cdiv(width, config["BLOCK_H"]) if gradients.weight is not None else 1
            launch.launch(
                weight_kernel, (slices, kept.ends.size(1)), config,
                compact=blocks(compact), hidden=blocks(hidden), ends=kept.ends, grad_weight=gradients.weight,
                weight_rest=gradients.weight_rest, grad_bias=gradients.bias, first=first,
                **common,
            )  # fmt: skip
    return mass.sum((0, 2))


def _threshold(chunk: Chunk, logps: Tensor, groups: int, filter_eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(energy [groups, V], mass [groups, V], threshold [1]): columns of less energy than it may be dropped."""
    n, padded, vocab = chunk.coef.numel(), chunk.tile_max.size(1), chunk.vocab
    coef = chunk.coef / chunk.coef.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)  # squares do not overflow
    energy, mass = chunk.lse.new_empty((groups, vocab)), chunk.lse.new_empty((groups, vocab))
    blocks = triton.cdiv(vocab, launch.ENERGY["BLOCK_V"])
    totals = chunk.lse.new_empty((groups, blocks))
    energy_kernel[(blocks, groups)](
        chunk.probs, chunk.tile_max, chunk.lse, coef, chunk.targets, energy, mass, totals, n, padded, vocab,
        TILE=TILE, GROUP_TOKENS=launch.GROUP_TOKENS, **launch.ENERGY,
    )  # fmt: skip
    # ||dL||^2 = sum of c^2 p^2, but (1 - p)^2 = p^2 + 1 - 2p at the targets.
    norm = totals.sum() + ((coef * chunk.slope).square() * (1 - 2 * logps.exp())).sum()
    budget = (filter_eps**2 * norm).clamp_min(0).nan_to_num(0).reshape(1)
    below = energy.new_empty((triton.cdiv(energy.numel(), launch.BELOW["BLOCK"]), LEVELS))
    below_kernel[(below.size(0),)](energy, budget, below, energy.numel(), LEVELS=LEVELS, **launch.BELOW)
    fits = below.sum(0) <= budget
    level = torch.where(fits.any(), fits.int().argmax(), torch.inf)  # the first, and so the highest, that fits
    return energy, mass, budget * torch.exp2(-level / 6)


def subtract_tail(grad_hidden: Tensor, weight: Tensor, coef: Tensor, mass: Tensor, kept: Tensor, tail: Tensor) -> None:
    """Adds the dropped columns' part: a token's dropped probability times its group's mean dropped embedding."""
    n = coef.numel()
    whole = mass if mass.numel() else 1.0
    dropped = (whole - kept.view(-1)[:n]).clamp_min(0) * coef
    shares = tail / tail.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    mean = (shares.to(weight.dtype) @ weight).float()
    for group, rows in enumerate(grad_hidden.split(launch.GROUP_TOKENS)):
        begin = group * launch.GROUP_TOKENS
        rows.addcmul_(dropped[begin : begin + len(rows), None], mean[group], value=-1)
