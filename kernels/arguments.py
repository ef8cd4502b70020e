"""Checks of the public functions' arguments: a bad one raises a ValueError that names it, before any work starts."""

import math

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_scale(name: str, value: float) -> None:
    """A positive number that float32 can divide by, and multiply by: neither overflows, whatever scales there are."""
    require(1e-15 <= value <= 1e15, f"{name}: expected a positive number from 1e-15 to 1e15, got {value}")


def check_weight(name: str, value: float) -> None:
    """A finite number >= 0."""
    require(0 <= value < math.inf, f"{name}: expected a finite number >= 0, got {value}")


def check_head(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, logit_softcap: float | None
) -> None:
    """hidden [T, H], weight [V, H], targets [T] int64, bias [V] or None, logit_softcap a scale or None."""
    require(
        hidden.dim() == 2 and hidden.is_floating_point(),
        f"hidden: expected floating point [T, H], got {hidden.dtype} {list(hidden.shape)}",
    )
    require(
        weight.dim() == 2 and weight.size(0) > 0 and weight.size(1) == hidden.size(1),
        f"weight: expected [V, {hidden.size(1)}], V > 0, as hidden is {list(hidden.shape)}, got {list(weight.shape)}",
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
    if logit_softcap is not None:
        check_scale("logit_softcap", logit_softcap)


def check_targets(targets: Tensor, vocab: int) -> None:
    """targets in [0, vocab). It reads values, which neither tracing nor the capture of a CUDA graph can do: check_head,
    which runs while tracing, leaves it out."""
    if targets.numel() and not is_captured(targets):
        low, high = (int(bound) for bound in targets.aminmax())
        require(low >= 0 and high < vocab, f"targets: values from {low} to {high} are outside [0, {vocab})")


def read_cu_seqlens(cu_seqlens: Tensor, tokens: int) -> list[int]:
    """Their values, after a check that they run from 0 to `tokens` without decreasing."""
    bounds = cu_seqlens.tolist()
    require(
        bounds[0] == 0 and bounds[-1] == tokens,
        f"cu_seqlens: must run from 0 to the number of tokens {tokens}, runs from {bounds[0]} to {bounds[-1]}",
    )
    require(bounds == sorted(bounds), "cu_seqlens: must not decrease")
    return bounds


def is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the device of `tensor`, whose values cannot be read then."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def check_pairs(cu_seqlens: Tensor, reference_logps: Tensor, device: torch.device) -> None:
    """cu_seqlens [2N + 1] int32, reference_logps [2N] floating point."""
    _check_boundaries(cu_seqlens, device)
    sequences = cu_seqlens.numel() - 1
    require(
        sequences % 2 == 0,
        f"cu_seqlens: {sequences} sequences cannot be (chosen, rejected) pairs; their number must be even",
    )
    _check_values("reference_logps", reference_logps, sequences, device)


def check_policy(
    hidden: Tensor,
    cu_seqlens: Tensor,
    advantages: Tensor,
    valid: Tensor | None,
    sampling_logps: Tensor | None,
    reference_logps: Tensor | None,
) -> None:
    """cu_seqlens [N + 1] int32, advantages [N], valid [N] bool, sampling_logps and reference_logps [T]."""
    _check_boundaries(cu_seqlens, hidden.device)
    sequences = cu_seqlens.numel() - 1
    _check_values("advantages", advantages, sequences, hidden.device)
    for name, tensor in (("sampling_logps", sampling_logps), ("reference_logps", reference_logps)):
        if tensor is not None:
            _check_values(name, tensor, hidden.size(0), hidden.device)
    require(
        valid is None or (valid.shape == (sequences,) and valid.dtype == torch.bool and valid.device == hidden.device),
        f"valid: expected bool [{sequences}] on {hidden.device} or None",
    )


def _check_boundaries(cu_seqlens: Tensor, device: torch.device) -> None:
    require(
        cu_seqlens.dim() == 1 and cu_seqlens.dtype == torch.int32 and cu_seqlens.numel() >= 1,
        f"cu_seqlens: expected int32 with one entry more than there are sequences, "
        f"got {cu_seqlens.dtype} {list(cu_seqlens.shape)}",
    )
    require(cu_seqlens.device == device, f"cu_seqlens: on {cu_seqlens.device}, but hidden is on {device}")


def _check_values(name: str, tensor: Tensor, size: int, device: torch.device) -> None:
    require(
        tensor.shape == (size,) and tensor.is_floating_point(),
        f"{name}: expected floating point [{size}], got {tensor.dtype} {list(tensor.shape)}",
    )
    require(tensor.device == device, f"{name}: on {tensor.device}, but hidden is on {device}")
