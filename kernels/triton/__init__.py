"""The primitives of fused.py on a GPU, in Triton. Nothing here waits for the device."""

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from advgame.kernels.fused import Gradients, Head, Statistics
from advgame.kernels.triton import launch
from advgame.kernels.triton.backward import gather_kernel, hidden_kernel, scale_kernel, weight_kernel
from advgame.kernels.triton.blocks import blocks_of
from advgame.kernels.triton.columns import LEVELS, below_kernel, compact_kernel, count_kernel, energy_kernel
from advgame.kernels.triton.forward import TILE, combine_kernel

CHUNK_TOKENS = 2048
"""Tokens whose probabilities are held at a time."""
ROUNDS = 4
"""A chunk's gathered dL holds 1 / ROUNDS of the vocabulary. More columns than that take further rounds, which are
always launched and end at once when there is nothing left for them: the host never needs to know."""


def weight_sums(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """In bfloat16, with eight more bits beside it: a float32 sum, half of which is the result as it stands."""
    if weight.dtype == torch.bfloat16:
        return weight.new_zeros(weight.shape), weight.new_zeros(weight.shape, dtype=torch.int8)
    return weight.new_zeros(weight.shape, dtype=torch.float32), None


def scale(gradient: Tensor, factor: Tensor) -> None:
    if gradient.numel() == 0:
        return
    scale_kernel[(triton.cdiv(gradient.numel(), launch.SCALE["BLOCK"]),)](
        gradient, factor, gradient.numel(), **launch.SCALE
    )


def probs_buffer(tokens: int, weight: Tensor) -> Tensor:
    """Half precision holds exp(logit - max) to 2^-12, from 1 down to 6e-8."""
    dtype = torch.float32 if weight.dtype == torch.float32 else torch.float16
    return weight.new_empty(weight.size(0) * _padded(tokens), dtype=dtype)


def head_forward(
    hidden: Tensor, head: Head, targets: Tensor, with_entropy: bool, exact: bool, probs: Tensor | None
) -> Statistics:
    n, vocab = hidden.size(0), head.weight.size(0)
    padded, tiles = _padded(n), triton.cdiv(vocab, TILE)
    empty = lambda *shape: hidden.new_empty(shape, dtype=torch.float32)  # noqa: E731
    tile_max, tile_sum = empty(tiles, padded), empty(tiles, padded)
    tile_weighted = empty(tiles, padded) if with_entropy else None
    tile_mass = empty(tiles, padded) if head.logit_softcap else None
    logps, lse, target_logit = empty(n), empty(n), empty(n)
    entropy, mass = empty(n if with_entropy else 0), empty(n if head.logit_softcap else 0)
    if n == 0:
        return Statistics(logps, lse, entropy, tile_max, mass)
    hidden, weight = hidden.contiguous(), head.weight.contiguous()
    if probs is not None:
        probs = probs[: vocab * padded].view(vocab, padded)
    launch.launch_forward(
        lambda meta: (triton.cdiv(vocab, meta["BLOCK_V"]) * (padded // meta["BLOCK_T"]),), hidden.element_size(),
        hidden=_blocks(hidden), weight=_blocks(weight), bias=head.bias, targets=targets.contiguous(),
        probs=None if probs is None else _blocks(probs),
        tile_max=tile_max, tile_sum=tile_sum, tile_weighted=tile_weighted, tile_mass=tile_mass,
        target_logit=target_logit, n=n, padded=padded, vocab=vocab, width=hidden.size(1),
        softcap=head.logit_softcap, inverse_temperature=1 / head.temperature,
        PRECISION=_precision(hidden), TILE=TILE,
    )  # fmt: skip
    combine_kernel[(triton.cdiv(n, launch.COMBINE["BLOCK_T"]),)](
        tile_max, tile_sum, tile_weighted, tile_mass, target_logit, logps, lse, entropy, mass, n, padded, tiles,
        **launch.COMBINE,
    )  # fmt: skip
    return Statistics(logps, lse, entropy, tile_max, mass)


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
) -> None:
    n, width = hidden.shape
    if n == 0:
        return
    vocab, padded = head.weight.size(0), _padded(n)
    groups = triton.cdiv(n, launch.GROUP_TOKENS)
    coef = coef / head.temperature
    hidden, weight, targets = hidden.contiguous(), head.weight.contiguous(), targets.contiguous()
    chunk = (probs, stats.tile_max, stats.lse, coef)

    energy = tail = threshold = None
    if filter_eps:
        energy, tail, threshold = _threshold(chunk, targets, stats.logps, slope, groups, vocab, filter_eps)
    blocks = triton.cdiv(vocab, launch.COUNT["BLOCK"])
    ends = hidden.new_empty((groups, blocks), dtype=torch.int32)
    count_kernel[(blocks, groups)](energy, threshold, ends, vocab, **launch.COUNT)
    ends = ends.cumsum(1, dtype=torch.int32)
    columns = hidden.new_empty((groups, vocab), dtype=torch.int32)
    compact_kernel[(blocks, groups)](energy, threshold, ends, columns, tail, vocab, **launch.COUNT)
    counts = ends[:, -1].contiguous()

    # The gathered dL, a share of the vocabulary at a time.
    step = launch.GATHER["BLOCK_V"]
    capacity = triton.cdiv(triton.cdiv(vocab, ROUNDS), step) * step
    compact = hidden.new_empty((groups * capacity, launch.GROUP_TOKENS))
    rounds = range(0, vocab, capacity)
    kept = hidden.new_zeros((len(rounds), groups, capacity // step, launch.GROUP_TOKENS), dtype=torch.float32)
    size_class, size = launch.size_class(launch.generation()), hidden.element_size()
    common = {
        "columns": columns, "capacity": capacity, "n": n, "vocab": vocab, "width": width, "groups": groups,
        "PRECISION": _precision(hidden), "GROUP_TOKENS": launch.GROUP_TOKENS,
    }  # fmt: skip
    for index, first in enumerate(rounds):
        gather_kernel[(capacity // step, groups)](
            *chunk, slope, targets, columns, counts, compact, kept[index], first, capacity, n, padded, vocab,
            TILE=TILE, GROUP_TOKENS=launch.GROUP_TOKENS, **launch.GATHER,
        )  # fmt: skip
        if gradients.hidden is not None:
            config = launch.HIDDEN[size_class][size]
            blocks_of_tokens = launch.GROUP_TOKENS // config["BLOCK_T"]
            launch.launch(
                hidden_kernel, (triton.cdiv(width, config["BLOCK_H"]), groups * blocks_of_tokens), config,
                compact=_blocks(compact), weight=weight, counts=counts, grad_hidden=gradients.hidden, first=first,
                **common,
            )  # fmt: skip
        if gradients.weight is not None or gradients.bias is not None:
            config = launch.WEIGHT[size_class][size]
            slices = triton.cdiv(width, config["BLOCK_H"]) if gradients.weight is not None else 1
            launch.launch(
                weight_kernel, (slices, blocks), config,
                compact=_blocks(compact), hidden=_blocks(hidden), ends=ends, grad_weight=gradients.weight,
                weight_rest=gradients.weight_rest, grad_bias=gradients.bias, first=first,
                **common,
            )  # fmt: skip
    if tail is not None and gradients.hidden is not None:
        _subtract_tail(gradients.hidden, weight, coef, stats.mass, kept.sum((0, 2)), tail)


def _threshold(chunk, targets: Tensor, logps: Tensor, slope: Tensor, groups: int, vocab: int, filter_eps: float):
    """(energy [groups, V], mass [groups, V], threshold [1]): columns below it may be dropped."""
    _, tile_max, lse, coef = chunk
    n, padded = coef.numel(), tile_max.size(1)
    energy, mass = lse.new_empty((groups, vocab)), lse.new_empty((groups, vocab))
    blocks = triton.cdiv(vocab, launch.ENERGY["BLOCK_V"])
    totals = lse.new_empty((groups, blocks))
    energy_kernel[(blocks, groups)](
        *chunk, targets, energy, mass, totals, n, padded, vocab,
        TILE=TILE, GROUP_TOKENS=launch.GROUP_TOKENS, **launch.ENERGY,
    )  # fmt: skip
    # ||dL||^2 = sum of c^2 p^2, but (1 - p)^2 = p^2 + 1 - 2p at the targets.
    norm = totals.sum() + ((coef * slope).square() * (1 - 2 * logps.exp())).sum()
    budget = (filter_eps**2 * norm).clamp_min(0).reshape(1)
    below = lse.new_empty((triton.cdiv(energy.numel(), launch.BELOW["BLOCK"]), LEVELS))
    below_kernel[(below.size(0),)](energy, budget, below, energy.numel(), LEVELS=LEVELS, **launch.BELOW)
    fits = below.sum(0) <= budget
    level = torch.where(fits.any(), fits.int().argmax(), torch.inf)  # the first, and so the highest, that fits
    return energy, mass, budget * torch.exp2(-level / 6)


def _subtract_tail(grad_hidden: Tensor, weight: Tensor, coef: Tensor, mass: Tensor, kept: Tensor, tail: Tensor) -> None:
    """The dropped columns: each token's dropped probability times the group's mean dropped embedding."""
    n = coef.numel()
    whole = mass if mass.numel() else 1.0
    dropped = (whole - kept.view(-1)[:n]).clamp_min(0) * coef
    shares = tail / tail.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    mean = (shares.to(weight.dtype) @ weight).float()
    for group, rows in enumerate(grad_hidden.split(launch.GROUP_TOKENS)):
        begin = group * launch.GROUP_TOKENS
        rows.addcmul_(dropped[begin : begin + len(rows), None], mean[group], value=-1)


def _blocks(matrix: Tensor) -> TensorDescriptor | Tensor:
    return blocks_of(matrix) if launch.has_tma(launch.generation()) else matrix


def _padded(tokens: int) -> int:
    return triton.cdiv(tokens, 128) * 128


def _precision(hidden: Tensor) -> str:
    return "interpreted" if launch.INTERPRETED else launch.PRECISION[hidden.element_size()]
