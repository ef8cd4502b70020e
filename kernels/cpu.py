"""The primitives of fused.py on a CPU: the operators of csrc/."""

import torch
from torch import Tensor

from advgame.kernels.fused import Gradients, Head, Statistics

CHUNK_TOKENS = 448
"""Tokens whose probabilities are held at a time: more make the GEMMs faster and the buffer larger."""
LANE = 32
"""The buffer's rows are padded to a multiple of this many tokens: whole vectors (kLane in csrc/head.h)."""
GROUP_TOKENS = 128
"""Tokens that share their set of active columns: see csrc/head_backward.cpp."""


def weight_sums(weight: Tensor) -> tuple[Tensor, None]:
    return torch.ops.advgame.pooled(weight.shape, True), None


def scale(gradient: Tensor, factor: Tensor) -> None:
    if factor.item() != 1:
        gradient.mul_(factor)


def probs_buffer(tokens: int, weight: Tensor) -> Tensor:
    return torch.ops.advgame.pooled([-(-tokens // LANE) * LANE * weight.size(0)], False)


def head_forward(
    hidden: Tensor, head: Head, targets: Tensor, with_entropy: bool, exact: bool, probs: Tensor | None
) -> Statistics:
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
