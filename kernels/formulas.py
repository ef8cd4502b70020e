"""The losses as functions of log-probs: each formula stands here, once, for every backend."""

import torch
import torch.nn.functional as F
from torch import Tensor

PREFERENCE_LOSSES = ("dpo", "ipo")
POLICY_NORMALIZATIONS = ("length_normalized", "token_mean", "sum")


def preference_loss(margin: Tensor, loss: str, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Loss of each pair, from its margin s_chosen - s_rejected, where s = log pi(y|x) - log pi_ref(y|x).

    DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7; label smoothing e as in cDPO):
        -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)
    IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): (m - 1 / (2 beta))^2

    Args:
        margin: [N]. loss: "dpo" or "ipo". beta: > 0. label_smoothing: in [0, 0.5), DPO only.

    Returns: [N], unreduced.
    """
    if loss == "dpo":
        return -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * F.logsigmoid(-beta * margin)
    return (margin - 1 / (2 * beta)) ** 2


def policy_loss(
    logprobs: Tensor,
    sequence_ids: Tensor,
    advantages: Tensor,
    *,
    valid: Tensor | None = None,
    sampling_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    importance_cap: float = 2.0,
    beta: float = 0.0,
    normalization: str = "length_normalized",
) -> Tensor:
    """GRPO loss, on-policy form (Shao et al. 2024, arXiv 2402.03300, eq. 3; AdvGame, arXiv 2512.20806).

    Each token's objective is exp(logp - sg(logp)) A, times min(exp(logp - sampling_logp), importance_cap) where
    sampling log-probs are given (gradients flow through both factors, as in the authors' code), minus
    beta (exp(r) - r - 1) with r = reference_logp - logp. The loss is minus its mean, as `normalization` says.

    Args:
        logprobs: [T] log-prob of each response token under the policy.
        sequence_ids: [T] int64, the sequence in [0, N) that each token belongs to.
        advantages: [N].
        valid: [N] bool; a sequence that is not valid contributes 0 but still counts among the N. None: all are.
        sampling_logprobs, reference_logprobs: [T] or None.
        normalization: "length_normalized" (mean over sequences of their token means), "token_mean" (mean over
            the tokens of valid sequences) or "sum" (mean over sequences of their token sums).

    Returns: scalar.
    """
    objective = torch.exp(logprobs - logprobs.detach()) * advantages[sequence_ids]
    if sampling_logprobs is not None:
        objective = objective * torch.exp(logprobs - sampling_logprobs).clamp(max=importance_cap)
    if reference_logprobs is not None:
        r = reference_logprobs - logprobs
        objective = objective - beta * (torch.exp(r) - r - 1)
    sequences = advantages.numel()
    lengths = torch.bincount(sequence_ids, minlength=sequences)
    weights = torch.ones_like(advantages) if valid is None else valid.to(advantages)
    if normalization == "token_mean":
        weights = weights / (lengths * weights).sum().clamp(min=1)
    elif normalization == "length_normalized":
        weights = weights / lengths.clamp(min=1) / max(sequences, 1)
    elif normalization == "sum":
        weights = weights / max(sequences, 1)
    else:
        raise ValueError(f"normalization: expected one of {POLICY_NORMALIZATIONS}, got {normalization!r}")
    return -(objective * weights[sequence_ids]).sum()
