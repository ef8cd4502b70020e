"""Preference losses (DPO, IPO) straight from hidden states and the LM head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import check_pairs, require
from advgame.kernels.formulas import PREFERENCE_LOSSES, preference_loss
from advgame.kernels.logprobs import linear_logprobs


@dataclass(frozen=True)
class PreferenceOutput:
    """What linear_preference_loss returns; everything but `loss` is detached."""

    loss: Tensor
    """Scalar, mean over the N pairs; 0 when there are none."""
    sequence_logps: Tensor
    """[2N], summed log-probs of each sequence under the policy."""
    chosen_rewards: Tensor
    """[N], beta (log pi - log pi_ref) of the chosen sequences: DPO's implicit reward."""
    rejected_rewards: Tensor
    """[N], the same of the rejected ones."""


def linear_preference_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference_logps: Tensor,
    *,
    loss: str = "dpo",
    beta: float = 0.1,
    length_normalize: bool = False,
    label_smoothing: float = 0.0,
    nll_weight: float = 0.0,
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
) -> PreferenceOutput:
    """Mean DPO or IPO loss over N (chosen, rejected) pairs of responses. See formulas.preference_loss.

    Plain PyTorch, in float32 or better: this is the oracle that every faster path is checked against.

    Args:
        hidden: [T, H] final hidden states at the positions that predict the T **response** tokens.
        weight: [V, H] LM head, of hidden's dtype.
        targets: [T] int64 in [0, V), the response tokens.
        cu_seqlens: [2N + 1] int32, where each sequence begins; order chosen_0, rejected_0, chosen_1, ...
        reference_logps: [2N] summed log-probs of each sequence under the reference.
        loss: "dpo" or "ipo". beta: > 0.
        length_normalize: divide the log-probs of a sequence, and its reference, by its number of tokens.
        label_smoothing: in [0, 0.5), the probability that a label is flipped; DPO only.
        nll_weight: adds nll_weight times the mean over pairs of -log pi(chosen) per token.
        bias: [V] or None. logit_softcap: as in linear_logprobs.

    Raises:
        ValueError: a wrong shape, dtype, device or range; the message names the argument.
    """
    require(loss in PREFERENCE_LOSSES, f"loss: expected one of {PREFERENCE_LOSSES}, got {loss!r}")
    require(beta > 0, f"beta: expected a positive number, got {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing: expected [0, 0.5), got {label_smoothing}")
    require(loss == "dpo" or label_smoothing == 0, "label_smoothing: defined for loss='dpo' only")
    check_pairs(cu_seqlens, reference_logps, hidden.size(0), hidden.device)

    logps = linear_logprobs(hidden, weight, targets, bias=bias, logit_softcap=logit_softcap)
    lengths = cu_seqlens.diff().long()
    sequence_ids = torch.repeat_interleave(torch.arange(lengths.numel(), device=lengths.device), lengths)
    sequence_logps = logps.new_zeros(lengths.numel()).index_add(0, sequence_ids, logps)

    per_token = lengths.clamp(min=1)
    ratios = sequence_logps - reference_logps.to(sequence_logps)
    if length_normalize:
        ratios = ratios / per_token
    losses = preference_loss(ratios[0::2] - ratios[1::2], loss, beta, label_smoothing)
    if nll_weight:
        losses = losses - nll_weight * (sequence_logps / per_token)[0::2]
    rewards = beta * ratios.detach()
    return PreferenceOutput(
        loss=losses.sum() / max(losses.numel(), 1),
        sequence_logps=sequence_logps.detach(),
        chosen_rewards=rewards[0::2],
        rejected_rewards=rewards[1::2],
    )
