"""The losses as functions of log-probs: the value and the slope of each formula, shared by every backend."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PREFERENCE_LOSSES = ("dpo", "ipo")
POLICY_NORMALIZATIONS = ("length_normalized", "token_mean", "sum")


def preference_loss(margin: Tensor, loss: str, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Loss of each pair, from its margin m = s_chosen - s_rejected, where s = log pi(y|x) - log pi_ref(y|x).

    DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7; label smoothing e as in cDPO):
        -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)
    IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): (m - 1 / (2 beta))^2

    Args:
        margin: [N]. loss: "dpo" or "ipo". beta: > 0. label_smoothing: in [0, 0.5), DPO only.

    Returns: [N], unreduced.
    """
    if loss == "dpo":
        wrong_way = F.logsigmoid(-beta * margin)
        return -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * wrong_way
    return (margin - 1 / (2 * beta)) ** 2


def preference_slope(margin: Tensor, loss: str, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Derivative of preference_loss with respect to the margin, [N]."""
    if loss == "dpo":
        wrong = torch.sigmoid(-beta * margin)
        return beta * (label_smoothing * (1 - wrong) - (1 - label_smoothing) * wrong)
    return 2 * (margin - 1 / (2 * beta))


@dataclass(frozen=True)
class PairTerms:
    """The terms of a pair's loss; preference.linear_preference_loss documents them."""

    loss: str
    beta: float
    length_normalize: bool
    label_smoothing: float
    nll_weight: float


def pair_losses(
    sequence_logps: Tensor, reference_logps: Tensor, lengths: Tensor, terms: PairTerms
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole loss of each pair.

    Args:
        sequence_logps, reference_logps, lengths: [2N], chosen and rejected in turn.

    Returns:
        losses: [N].
        slopes: [2N], the derivative of a pair's loss with respect to each of its two sequence log-probs.
        rewards: [2N], beta (log pi - log pi_ref).
    """
    loss, beta, label_smoothing, nll_weight = terms.loss, terms.beta, terms.label_smoothing, terms.nll_weight
    per_token = 1 / lengths.clamp(min=1).to(sequence_logps)
    scale = per_token if terms.length_normalize else torch.ones_like(per_token)
    ratios = (sequence_logps - reference_logps.to(sequence_logps)) * scale
    margin = ratios[0::2] - ratios[1::2]
    losses = preference_loss(margin, loss, beta, label_smoothing) - nll_weight * (sequence_logps * per_token)[0::2]
    slope = preference_slope(margin, loss, beta, label_smoothing)
    slopes = torch.stack([slope * scale[0::2] - nll_weight * per_token[0::2], -slope * scale[1::2]], dim=1).flatten()
    return losses, slopes, beta * ratios


def policy_objective(
    logps: Tensor,
    advantages: Tensor,
    sampling_logps: Tensor | None,
    reference_logps: Tensor | None,
    importance_cap: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """The GRPO objective of each token, on-policy (Shao et al. 2024, arXiv 2402.03300, eq. 3), and its slope.

    exp(logp - sg(logp)) A, where sg stops the gradient and A is the advantage; times min(exp(logp - sampling_logp),
    importance_cap) if sampling log-probs are given (truncated importance sampling; gradients flow through both factors,
    as in AdvGame's published code); minus beta (exp(r) - r - 1) with r = reference_logp - logp.

    Args:
        logps, advantages, sampling_logps, reference_logps: [T], one value per token; the last two may be None.

    Returns:
        objective: [T], differentiable by autograd.
        slope: [T], its derivative with respect to logps.
    """
    objective, slope = torch.exp(logps - logps.detach()) * advantages, advantages
    if sampling_logps is not None:
        infinity_to_nan = sampling_logps - sampling_logps
        ratio = torch.exp((logps - sampling_logps).clamp(max=80)) + infinity_to_nan  # e^80 is beyond any cap
        truncated = ratio.clamp(max=importance_cap)
        objective = objective * truncated
        slope = advantages * (truncated + torch.where(ratio <= importance_cap, ratio, 0))
    if reference_logps is not None:
        r = reference_logps - logps
        objective = objective - beta * (torch.exp(r) - r - 1)
        slope = slope + beta * (torch.exp(r) - 1)
    return objective, slope


def policy_weights(lengths: Tensor, valid: Tensor | None, normalization: str) -> Tensor:
    """The weight of each sequence's tokens: the loss is minus the weighted sum of the tokens' objectives.

    Args:
        lengths: [N], numbers of tokens.
        valid: [N] bool or None. An invalid sequence has weight 0, but counts among the N.
        normalization: "length_normalized" (mean over sequences of their token means), "token_mean" (mean over the
            tokens of valid sequences) or "sum" (mean over sequences of their token sums).

    Returns: [N] float64.
    """
    sequences, lengths = max(lengths.numel(), 1), lengths.double()
    weights = torch.ones_like(lengths) if valid is None else valid.to(lengths)
    if normalization == "token_mean":
        return weights / (lengths * weights).sum().clamp(min=1)
    if normalization == "length_normalized":
        return weights / lengths.clamp(min=1) / sequences
    return weights / sequences
