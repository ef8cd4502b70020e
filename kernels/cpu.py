"""The backend for CPUs: the operators of csrc/."""

import torch
from torch import Tensor

from advgame.kernels.backend import Gradients, Head, Statistics

CHUNK_TOKENS = 448
"""Tokens whose probabilities are held at a time. More would make the GEMMs faster and the buffer larger."""
LANE = 32
"""Rows of the buffer are padded to a multiple of this many tokens, which are whole vectors (kLane in csrc/head.h)."""
GROUP_TOKENS = 128
"""Tokens that share their set of columns (csrc/columns.h)."""


def weight_sums(weight: Tensor) -> tuple[Tensor, None]:
    """In float32, from the pool."""
    return torch.ops.advgame.pooled(weight.shape, True), None


def scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies a gradient by a scalar tensor, in place."""
    if factor.item() != 1:
        gradient.mul_(factor)


def probs_buffer(tokens: int, weight: Tensor) -> Tensor:
    """In float32, from the pool."""
    return torch.ops.advgame.pooled([-(-tokens // LANE) * LANE * weight.size(0)], False)


def head_forward(
    hidden: Tensor, head: Head, targets: Tensor, with_entropy: bool, exact: bool, probs: Tensor | None
) -> Statistics:
    """See backend.Backend."""
    return Statistics(
        *torch.ops.advgame.head_forward(
            hidden, head.weight, head.bias, targets, head.logit_softcap, head.temperature, with_entropy, exact, probs
        )
    )


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
    """See backend.Backend."""
    torch.ops.advgame.head_backward(
        hidden,
        head.weight,
        targets,
        coef,
        stats.logps,
        stats.lse,
        slope,
        stats.mass,
        stats.tile_max,
        probs,
        head.temperature,
        filter_eps,
        GROUP_TOKENS,
        gradients.hidden,
        gradients.weight,
        gradients.bias,
    )
