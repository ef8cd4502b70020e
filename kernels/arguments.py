"""Checks shared by the public losses: a bad argument raises ValueError that names it, before any work starts."""

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_head(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, logit_softcap: float | None
) -> None:
    """hidden [T, H], weight [V, H], targets [T] int64 in [0, V), bias [V] or None, logit_softcap > 0 or None."""
    require(
        hidden.dim() == 2 and hidden.is_floating_point(),
        f"hidden: expected floating point [T, H], got {hidden.dtype} {list(hidden.shape)}",
    )
    require(
        weight.dim() == 2 and weight.size(1) == hidden.size(1),
        f"weight: expected [V, {hidden.size(1)}] as hidden is {list(hidden.shape)}, got {list(weight.shape)}",
    )
    require(
        weight.dtype == hidden.dtype,
        f"weight: {weight.dtype} does not match hidden's {hidden.dtype}; cast one of them",
    )
    require(
        targets.dtype == torch.int64 and targets.shape == hidden.shape[:1],
        f"targets: expected int64 [{hidden.size(0)}], got {targets.dtype} {list(targets.shape)}",
    )
    for name, tensor in (("weight", weight), ("targets", targets), ("bias", bias)):
        require(
            tensor is None or tensor.device == hidden.device,
            f"{name}: on {tensor.device if tensor is not None else None}, but hidden is on {hidden.device}",
        )
    if bias is not None:
        require(
            bias.shape == weight.shape[:1] and bias.is_floating_point(),
            f"bias: expected floating point [{weight.size(0)}], got {bias.dtype} {list(bias.shape)}",
        )
    require(
        logit_softcap is None or logit_softcap > 0,
        f"logit_softcap: expected a positive number or None, got {logit_softcap}",
    )
    if targets.numel():
        low, high = (int(bound) for bound in targets.aminmax())
        require(
            low >= 0 and high < weight.size(0),
            f"targets: values from {low} to {high} are outside [0, {weight.size(0)})",
        )


def check_pairs(cu_seqlens: Tensor, reference_logps: Tensor, tokens: int, device: torch.device) -> None:
    """cu_seqlens [2N + 1] int32 rising from 0 to `tokens`, reference_logps [2N] floating point."""
    require(
        cu_seqlens.dim() == 1 and cu_seqlens.dtype == torch.int32 and cu_seqlens.numel() >= 1,
        f"cu_seqlens: expected int32 [2N + 1], got {cu_seqlens.dtype} {list(cu_seqlens.shape)}",
    )
    require(cu_seqlens.device == device, f"cu_seqlens: on {cu_seqlens.device}, but hidden is on {device}")
    sequences = cu_seqlens.numel() - 1
    require(
        sequences % 2 == 0,
        f"cu_seqlens: {sequences} sequences cannot be (chosen, rejected) pairs; their number must be even",
    )
    require(
        int(cu_seqlens[0]) == 0 and int(cu_seqlens[-1]) == tokens,
        f"cu_seqlens: must run from 0 to the number of tokens {tokens}, "
        f"runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}",
    )
    require(bool((cu_seqlens.diff() >= 0).all()), "cu_seqlens: must not decrease")
    require(
        reference_logps.shape == (sequences,) and reference_logps.is_floating_point(),
        f"reference_logps: expected floating point [{sequences}], "
        f"got {reference_logps.dtype} {list(reference_logps.shape)}",
    )
    require(
        reference_logps.device == device,
        f"reference_logps: on {reference_logps.device}, but hidden is on {device}",
    )
