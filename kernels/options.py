"""What the callers of all fused losses may choose, resolved and checked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advgame.kernels.arguments import check_head, is_captured, require
from advgame.kernels.backend import Head
from advgame.kernels.registry import resolve_backend
from advgame.kernels.shards import check_group, spread_head

if TYPE_CHECKING:  # a PyTorch built without it has no ProcessGroup
    from torch.distributed import ProcessGroup

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


def resolve_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    logit_softcap: float | None,
    temperature: float,
    group: "ProcessGroup | None",
    *,
    with_entropy: bool,
    filter_eps: float | str,
    chunk_tokens: int | None,
    backend: str | None,
) -> tuple[Head, OpOptions]:
    """The LM head and the options that a public function was given, checked.

    Raises:
        ValueError: a wrong shape, dtype, device or range, or what differs between the ranks of a group and must not;
            the message names the argument. What one rank refuses, all refuse.
    """

    def resolve() -> OpOptions:
        check_head(hidden, weight, targets, bias, logit_softcap)
        return _resolve_options(hidden, with_entropy, filter_eps, chunk_tokens, backend)

    head = Head(weight, bias, logit_softcap or 0.0, temperature)
    if group is None:
        return head, resolve()
    check_group(group)
    require(not is_captured(hidden), "group: its ranks cannot agree while a CUDA graph is captured")
    same: dict[str, object] = {}
    refusal = None
    try:
        options = resolve()
        same = {
            "hidden": f"{hidden.dtype} {list(hidden.shape)}",
            "targets": f"checksum {(targets * torch.arange(1, len(targets) + 1, device=targets.device)).sum()}",
            "bias": "None" if bias is None else "one",
            "logit_softcap": logit_softcap,
            "temperature": temperature,
            "requires_grad": wanted_gradients(hidden, weight, bias),
            **vars(options),
        }
    except ValueError as error:
        refusal = str(error)
    return spread_head(head, group, same, refusal), options


def _resolve_options(
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
