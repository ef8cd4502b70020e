"""The policy loss (GRPO) straight from hidden states and the LM head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import check_head, check_policy, check_targets, is_captured, read_cu_seqlens, require
from advgame.kernels.eager import head_logprobs
from advgame.kernels.extension import resolve_backend
from advgame.kernels.formulas import POLICY_NORMALIZATIONS, policy_objective, policy_weights
from advgame.kernels.fused import (
    Gradients,
    Head,
    Workspace,
    pieces,
    register_gradients,
    resolve_filter_eps,
    run_chunks,
    wanted_gradients,
)


@dataclass(frozen=True)
class PolicyOutput:
    """What linear_policy_loss returns; everything but `loss` is detached."""

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
    backend: str | None = None,
) -> PolicyOutput:
    """GRPO loss over N responses. See formulas.policy_objective and formulas.policy_weights.

    Args:
        hidden, weight, targets, bias, logit_softcap, return_entropy, filter_eps, backend: as in
            linear_preference_loss.
        cu_seqlens: [N + 1] int32, where each response begins among the T tokens.
        advantages: [N].
        sampling_logps: [T] log-prob of each token when it was sampled, or None: turns on the importance correction,
            truncated at importance_cap > 0.
        reference_logps: [T] log-prob of each token under the reference, or None: turns on the KL term, times beta.
        valid: [N] bool or None; a response that is not valid contributes nothing but counts among the N.
        normalization: "length_normalized", "token_mean" or "sum".

    Raises:
        ValueError: a wrong shape, dtype, device or range; the message names the argument.
    """
    require(
        normalization in POLICY_NORMALIZATIONS,
        f"normalization: expected one of {POLICY_NORMALIZATIONS}, got {normalization!r}",
    )
    require(beta >= 0, f"beta: expected a number >= 0, got {beta}")
    require(importance_cap > 0, f"importance_cap: expected a positive number, got {importance_cap}")
    check_head(hidden, weight, targets, bias, logit_softcap)
    check_policy(hidden, cu_seqlens, advantages, valid, sampling_logps, reference_logps)
    eps = resolve_filter_eps(filter_eps)
    backend = resolve_backend(backend, hidden)
    if backend == "eager":
        check_targets(targets, weight.size(0))
        read_cu_seqlens(cu_seqlens, hidden.size(0))
        logps, entropy = head_logprobs(hidden, weight, targets, bias, logit_softcap, 1.0, return_entropy)
        weights, token_advantages = _per_token(cu_seqlens, advantages, valid, normalization, logps, len(logps))
        objective, _ = policy_objective(logps, token_advantages, sampling_logps, reference_logps, importance_cap, beta)
        loss = -(weights * objective).sum()
    else:
        loss, logps, entropy, *_ = _policy(
            hidden, weight, bias, targets, cu_seqlens, advantages, sampling_logps, reference_logps, valid,
            beta, importance_cap, normalization, logit_softcap or 0.0, backend, return_entropy, eps,
            *wanted_gradients(hidden, weight, bias),
        )  # fmt: skip
    return PolicyOutput(loss=loss, logps=logps.detach(), entropy=entropy if return_entropy else None)


def _per_token(
    cu_seqlens: Tensor, advantages: Tensor, valid: Tensor | None, normalization: str, like: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    """(weight in the loss [T], advantage [T]) of each token."""
    lengths = cu_seqlens.diff().long()
    weights = policy_weights(lengths, valid, normalization).to(like)
    return tuple(t.repeat_interleave(lengths, output_size=tokens) for t in (weights, advantages.to(like)))


@torch.library.custom_op("advgame::policy", mutates_args=())
def _policy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    advantages: Tensor,
    sampling_logps: Tensor | None,
    reference_logps: Tensor | None,
    valid: Tensor | None,
    beta: float,
    importance_cap: float,
    normalization: str,
    logit_softcap: float,
    backend: str,
    with_entropy: bool,
    filter_eps: float,
    want_hidden: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, logps, entropy, and the gradients of the loss by hidden, weight and bias)."""
    check_targets(targets, weight.size(0))
    if not is_captured(hidden):
        read_cu_seqlens(cu_seqlens, hidden.size(0))
    head = Head(weight, bias, logit_softcap, 1.0)
    gradients = Gradients.zeros(backend, hidden, head, want_hidden, want_weight, want_bias)
    workspace = Workspace(backend, hidden, head, targets, filter_eps, with_entropy)
    like = hidden.new_empty(0, dtype=torch.float32)
    weights, token_advantages = _per_token(cu_seqlens, advantages, valid, normalization, like, hidden.size(0))

    def objective(begin: int, end: int, logps: Tensor) -> tuple[Tensor, Tensor]:
        given = [t if t is None else t[begin:end].float() for t in (sampling_logps, reference_logps)]
        return policy_objective(logps, token_advantages[begin:end], *given, importance_cap, beta)

    tokens = hidden.size(0)
    chunks = list(pieces(0, tokens, workspace.primitives.CHUNK_TOKENS))

    def coefficients(index: int, logps: Tensor) -> Tensor:
        begin, end = chunks[index]
        return -weights[begin:end] * objective(begin, end, logps)[1]

    logps, entropy = run_chunks(workspace, chunks, coefficients, gradients)
    loss = -(weights * objective(0, tokens, logps)[0]).sum()
    return loss, logps, entropy, *gradients.cast(hidden, head)


@_policy.register_fake
def _(hidden, weight, bias, *options):
    with_entropy, _, *wanted = options[-5:]
    tokens = hidden.size(0)
    shapes = ((), (tokens,), (tokens if with_entropy else 0,))
    return *(hidden.new_empty(shape, dtype=torch.float32) for shape in shapes), *Gradients.empty(
        hidden, weight, bias, *wanted
    )


register_gradients(_policy, first=3)
