"""The policy loss (GRPO) straight from hidden states and the LM head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advgame.kernels.arguments import (
    check_policy,
    check_scale,
    check_targets,
    check_weight,
    is_captured,
    read_cu_seqlens,
    require,
)
from advgame.kernels.backend import Head
from advgame.kernels.eager import head_logprobs
from advgame.kernels.formulas import POLICY_NORMALIZATIONS, policy_objective, policy_weights
from advgame.kernels.fused import Workspace, differentiate_chunks, pieces
from advgame.kernels.gradients import loss_operator, traced_gradients
from advgame.kernels.options import OpOptions, Wanted, resolve_head, wanted_gradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class PolicyOutput:
    """What linear_policy_loss returns: float32, or float64 for float64 inputs. Only `loss` is differentiable."""

    loss: Tensor
    """Scalar."""
    logps: Tensor
    """[T], log-prob of each response token under the policy."""
    entropy: Tensor | None = None
    """[T], entropy of the policy at each token in nats, if asked for."""


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    advantages: Tensor,
    *,
    sampling_logps: Tensor | None = None,
    reference_logps: Tensor | None = None,
    valid: Tensor | None = None,
    beta: float = 0.0,
    importance_cap: float = 2.0,
    normalization: str = "length_normalized",
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
    return_entropy: bool = False,
    filter_eps: float | str = "auto",
    chunk_tokens: int | None = None,
    backend: str | None = None,
    group: "ProcessGroup | None" = None,
) -> PolicyOutput:
    """GRPO loss over N responses (Shao et al. 2024, arXiv 2402.03300, eq. 3).

    It is minus the sum of formulas.policy_objective over tokens, weighted by formulas.policy_weights.

    Args:
        hidden, weight, targets, bias, logit_softcap, return_entropy, filter_eps, chunk_tokens, backend, group: as in
            linear_preference_loss.
        cu_seqlens: [N + 1] int32, where each response begins among the T tokens.
        advantages: [N], floating point.
        sampling_logps: [T] log-prob of each token when it was sampled, which turns on the importance correction,
            truncated at importance_cap; or None.
        reference_logps: [T] log-prob of each token under the reference, which turns on the KL term; or None.
        valid: [N] bool or None. An invalid response contributes nothing, but counts among the N.
        beta: >= 0, the weight of the KL term.
        importance_cap: > 0.
        normalization: "length_normalized", "token_mean" or "sum".

    Raises:
        ValueError: as linear_logprobs.
    """
    require(
        normalization in POLICY_NORMALIZATIONS,
        f"normalization: expected one of {POLICY_NORMALIZATIONS}, got {normalization!r}",
    )
    check_weight("beta", beta)
    check_scale("importance_cap", importance_cap)
    head, options = resolve_head(
        hidden, weight, targets, bias, logit_softcap, 1.0, group,
        with_entropy=return_entropy, filter_eps=filter_eps, chunk_tokens=chunk_tokens, backend=backend,
    )  # fmt: skip
    check_policy(hidden, cu_seqlens, advantages, valid, sampling_logps, reference_logps)
    if options.backend == "eager":
        check_targets(targets, head.vocab)
        read_cu_seqlens(cu_seqlens, hidden.size(0))
        logps, entropy = head_logprobs(hidden, head, targets, return_entropy)
        weights, token_advantages = _per_token(cu_seqlens, advantages, valid, normalization, logps, len(logps))
        objective, _ = policy_objective(logps, token_advantages, sampling_logps, reference_logps, importance_cap, beta)
        loss = -(weights * objective).sum()
    else:
        wanted = wanted_gradients(hidden, weight, bias)
        loss, logps, entropy, *_ = _policy_operator(
            hidden, head, targets, options, wanted, cu_seqlens, advantages, sampling_logps, reference_logps, valid,
            beta, importance_cap, normalization,
        )  # fmt: skip
    return PolicyOutput(loss=loss, logps=logps.detach(), entropy=entropy if return_entropy else None)


def _per_token(
    cu_seqlens: Tensor, advantages: Tensor, valid: Tensor | None, normalization: str, like: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    """([T] weight in the loss, [T] advantage) of each token."""
    lengths = cu_seqlens.diff().long()
    weights = policy_weights(lengths, valid, normalization).to(like)
    advantages = advantages.to(like).repeat_interleave(lengths, output_size=tokens)
    return weights.repeat_interleave(lengths, output_size=tokens), advantages


def _policy(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    options: OpOptions,
    wanted: Wanted,
    cu_seqlens: Tensor,
    advantages: Tensor,
    sampling_logps: Tensor | None,
    reference_logps: Tensor | None,
    valid: Tensor | None,
    beta: float,
    importance_cap: float,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, logps, entropy, and the loss's gradients with respect to hidden, weight and bias)."""
    check_targets(targets, head.vocab)
    tokens = hidden.size(0)
    if not is_captured(hidden):
        read_cu_seqlens(cu_seqlens, tokens)
    like = hidden.new_empty(0, dtype=torch.float32)
    weights, token_advantages = _per_token(cu_seqlens, advantages, valid, normalization, like, tokens)

    def objective(begin: int, end: int, logps: Tensor) -> tuple[Tensor, Tensor]:
        sampling, reference = (t if t is None else t[begin:end].float() for t in (sampling_logps, reference_logps))
        return policy_objective(logps, token_advantages[begin:end], sampling, reference, importance_cap, beta)

    workspace = Workspace(hidden, head, targets, options)
    chunks = list(pieces(0, tokens, workspace.chunk_tokens))

    def coefficients(index: int, logps: Tensor) -> Tensor:
        begin, end = chunks[index]
        return -weights[begin:end] * objective(begin, end, logps)[1]

    logps, entropy, gradients = differentiate_chunks(workspace, chunks, coefficients, wanted)
    loss = -(weights * objective(0, tokens, logps)[0]).sum()
    return loss, logps, entropy, *gradients


def _policy_shapes(
    hidden: Tensor, head: Head, targets: Tensor, options: OpOptions, wanted: Wanted, *_: Any
) -> tuple[Tensor, ...]:
    tokens = hidden.size(0)
    shapes: tuple[tuple[int, ...], ...] = (), (tokens,), (tokens if options.with_entropy else 0,)
    values = (hidden.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return *values, *traced_gradients(hidden, head, wanted)


_policy_operator = loss_operator("policy", _policy, _policy_shapes, first=3)
