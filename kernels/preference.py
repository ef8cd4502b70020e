"""Preference losses (DPO, IPO) straight from hidden states and the LM head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import (
    check_head,
    check_pairs,
    check_targets,
    is_captured,
    read_cu_seqlens,
    require,
)
from advgame.kernels.eager import head_logprobs
from advgame.kernels.extension import resolve_backend
from advgame.kernels.formulas import PREFERENCE_LOSSES, pair_losses
from advgame.kernels.fused import (
    Gradients,
    Head,
    Workspace,
    group_into_chunks,
    register_gradients,
    resolve_filter_eps,
    run_chunks,
    wanted_gradients,
)


@dataclass(frozen=True)
class PreferenceInputs:
    """One player's part of linear_game_loss; the fields are linear_preference_loss's arguments."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    reference_logps: Tensor
    bias: Tensor | None = None
    logit_softcap: float | None = None


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
    entropy: Tensor | None = None
    """[T], entropy of the policy at each token in nats, if asked for."""


@dataclass(frozen=True)
class GameOutput:
    """What linear_game_loss returns."""

    loss: Tensor
    """Scalar, the sum of both players' losses."""
    attacker: PreferenceOutput
    defender: PreferenceOutput


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
    return_entropy: bool = False,
    filter_eps: float | str = "auto",
    backend: str | None = None,
) -> PreferenceOutput:
    """Mean DPO or IPO loss over N (chosen, rejected) pairs of responses. See formulas.preference_loss.

    Except in the eager backend the gradients are made in the forward pass, chunk by chunk, and no [T, V] tensor
    ever exists: see fused.py.

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
        return_entropy: also return the policy's entropy at each token.
        filter_eps, backend: as in linear_logprobs.

    Raises:
        ValueError: a wrong shape, dtype, device or range; the message names the argument.
    """
    require(loss in PREFERENCE_LOSSES, f"loss: expected one of {PREFERENCE_LOSSES}, got {loss!r}")
    require(beta > 0, f"beta: expected a positive number, got {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing: expected [0, 0.5), got {label_smoothing}")
    require(loss == "dpo" or label_smoothing == 0, "label_smoothing: defined for loss='dpo' only")
    check_head(hidden, weight, targets, bias, logit_softcap)
    check_pairs(cu_seqlens, reference_logps, hidden.device)
    eps = resolve_filter_eps(filter_eps)
    options = (loss, beta, length_normalize, label_smoothing, nll_weight)
    backend = resolve_backend(backend, hidden)
    if backend == "eager":
        check_targets(targets, weight.size(0))
        read_cu_seqlens(cu_seqlens, hidden.size(0))
        logps, entropy = head_logprobs(hidden, weight, targets, bias, logit_softcap, 1.0, return_entropy)
        total, sequence_logps, rewards = _mean_loss(logps, cu_seqlens, reference_logps, options)
    else:
        total, sequence_logps, rewards, entropy, *_ = _preference(
            hidden, weight, bias, targets, cu_seqlens, reference_logps, *options,
            logit_softcap or 0.0, backend, return_entropy, eps,
            *wanted_gradients(hidden, weight, bias),
        )  # fmt: skip
    rewards = rewards.detach()
    return PreferenceOutput(
        loss=total,
        sequence_logps=sequence_logps.detach(),
        chosen_rewards=rewards[0::2],
        rejected_rewards=rewards[1::2],
        entropy=entropy if return_entropy else None,
    )


def linear_game_loss(attacker: PreferenceInputs, defender: PreferenceInputs, **options) -> GameOutput:
    """Both players' preference losses; their models may differ in H and V.

    Args:
        attacker, defender: each player's tensors.
        options: those of linear_preference_loss, for both players alike.
    """
    outputs = [linear_preference_loss(**vars(player), **options) for player in (attacker, defender)]
    return GameOutput(loss=outputs[0].loss + outputs[1].loss, attacker=outputs[0], defender=outputs[1])


def _mean_loss(
    logps: Tensor, cu_seqlens: Tensor, reference_logps: Tensor, options: tuple
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean loss over pairs, sequence_logps [2N], rewards [2N]) from the log-probs of all tokens."""
    lengths = cu_seqlens.diff().long()
    sequence_logps = _sums(logps, lengths)
    losses, _, rewards = _pair_losses(sequence_logps, reference_logps, lengths, options)
    return losses.sum() / max(losses.numel(), 1), sequence_logps, rewards


def _sums(logps: Tensor, lengths: Tensor) -> Tensor:
    """Of each sequence, in a fixed order; `unsafe` skips a check that read_cu_seqlens has made."""
    return torch.segment_reduce(logps, "sum", lengths=lengths, initial=0, unsafe=True)


def _pair_losses(sequence_logps: Tensor, reference_logps: Tensor, lengths: Tensor, options: tuple):
    loss, beta, length_normalize, label_smoothing, nll_weight = options
    return pair_losses(
        sequence_logps,
        reference_logps,
        lengths,
        loss=loss,
        beta=beta,
        length_normalize=length_normalize,
        label_smoothing=label_smoothing,
        nll_weight=nll_weight,
    )


@torch.library.custom_op("advgame::preference", mutates_args=())
def _preference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference_logps: Tensor,
    loss: str,
    beta: float,
    length_normalize: bool,
    label_smoothing: float,
    nll_weight: float,
    logit_softcap: float,
    backend: str,
    with_entropy: bool,
    filter_eps: float,
    want_hidden: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, sequence_logps, rewards, entropy, and the gradients of the loss by hidden, weight and bias)."""
    check_targets(targets, weight.size(0))
    options = (loss, beta, length_normalize, label_smoothing, nll_weight)
    head = Head(weight, bias, logit_softcap, 1.0)
    gradients = Gradients.zeros(backend, hidden, head, want_hidden, want_weight, want_bias)
    workspace = Workspace(backend, hidden, head, targets, filter_eps, with_entropy)
    lengths, tokens = cu_seqlens.diff().long(), hidden.size(0)
    if is_captured(hidden):  # where the pairs begin is not known: all of them are one chunk
        chunks, pairs = [(0, tokens)], [(0, lengths.numel() // 2)]
    else:
        begins = read_cu_seqlens(cu_seqlens, tokens)[0::2]  # of each pair, and the end
        pairs = group_into_chunks(begins, workspace.primitives.CHUNK_TOKENS)
        chunks = [(begins[first], begins[last]) for first, last in pairs]

    def coefficients(index: int, logps: Tensor) -> Tensor:
        """The slope of the mean loss by each log-prob of a chunk's pairs: that of its sequence."""
        sequences = slice(2 * pairs[index][0], 2 * pairs[index][1])
        sums = _sums(logps, lengths[sequences])
        _, slopes, _ = _pair_losses(sums, reference_logps[sequences], lengths[sequences], options)
        return (slopes / (lengths.numel() // 2)).repeat_interleave(lengths[sequences], output_size=logps.numel())

    logps, entropy = run_chunks(workspace, chunks, coefficients, gradients)
    return *_mean_loss(logps, cu_seqlens, reference_logps, options), entropy, *gradients.cast(hidden, head)


@_preference.register_fake
def _(hidden, weight, bias, targets, cu_seqlens, reference_logps, *options):
    with_entropy, _, *wanted = options[-5:]
    sequences, tokens = cu_seqlens.size(0) - 1, hidden.size(0)
    shapes = ((), (sequences,), (sequences,), (tokens if with_entropy else 0,))
    return *(hidden.new_empty(shape, dtype=torch.float32) for shape in shapes), *Gradients.empty(
        hidden, weight, bias, *wanted
    )


register_gradients(_preference, first=4)
