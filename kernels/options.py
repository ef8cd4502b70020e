"""What the callers of all fused losses may choose, resolved and checked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import require
from advgame.kernels.registry import resolve_backend

AUTO_FILTER_EPS = 1.2e-3
"""filter_eps="auto": relative errors of 5e-3 (hidden) and 2e-3 (weight) in the gradients, below bfloat16's rounding."""


@dataclass(frozen=True)
class OpOptions:
    """How an operator computes."""

    backend: str
    with_entropy: bool
    filter_eps: float
    chunk_tokens: int | None
    """Tokens whose probabilities are held at a time; None is the backend's choice."""


@dataclass(frozen=True)
class Wanted:
    """The gradients that an operator computes."""

    want_hidden: bool
    want_weight: bool
    want_bias: bool


def resolve_options(
    hidden: Tensor, with_entropy: bool, filter_eps: float | str, chunk_tokens: int | None, backend: str | None
) -> OpOptions:
    """Checks the options that a public function was given, and replaces defaults by their values.

    Raises:
        ValueError: a value is out of range, or the backend cannot run on hidden; the message names the argument.
    """
    eps = AUTO_FILTER_EPS if filter_eps == "auto" else filter_eps
    if isinstance(eps, str) or not 0 <= eps < 1:
        raise ValueError(f"filter_eps: expected 'auto' or a number in [0, 1), got {filter_eps!r}")
    require(
        chunk_tokens is None or 1 <= chunk_tokens < 2**31,
        f"chunk_tokens: expected a positive number below 2**31 or None, got {chunk_tokens}",
    )
    return OpOptions(resolve_backend(backend, hidden), with_entropy, float(eps), chunk_tokens)


def wanted_gradients(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Wanted:
    """A gradient for each of the tensors that requires one; none under no_grad."""
    return Wanted(*(t is not None and t.requires_grad and torch.is_grad_enabled() for t in (hidden, weight, bias)))
