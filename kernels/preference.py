"""Preference losses (DPO, IPO) straight from hidden states and the LM head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advgame.kernels.arguments import (
    check_pairs,
    check_scale,
    check_targets,
    check_weight,
    is_captured,
    read_cu_seqlens,
    require,
)
from advgame.kernels.backend import Head
from advgame.kernels.eager import head_logprobs
from advgame.kernels.formulas import PREFERENCE_LOSSES, PairTerms, pair_losses
from advgame.kernels.fused import Workspace, differentiate_chunks, group_into_chunks
from advgame.kernels.gradients import loss_operator, traced_gradients
from advgame.kernels.options import OpOptions, Wanted, resolve_head, wanted_gradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class PreferenceInputs:
    """The tensors of one player in linear_game_loss; the fields are arguments of linear_preference_loss."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    reference_logps: Tensor
    bias: Tensor | None = None
    logit_softcap: float | None = None


@dataclass(frozen=True)
class PreferenceOutput:
    """What linear_preference_loss returns: float32, or float64 for float64 inputs. Only `loss` is differentiable."""

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
    chunk_tokens: int | None = None,
    backend: str | None = None,
    group: "ProcessGroup | None" = None,
) -> PreferenceOutput:
    """Mean loss over N (chosen, rejected) pairs of responses.

    DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7) or IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17):
    formulas.preference_loss has the formulas. All backends but the eager one compute the gradients in the forward pass,
    chunk by chunk, without a [T, V] tensor: see fused.py.

    Args:
        hidden: [T, H] floating point, the final hidden states at the positions that predict the T **response** tokens.
        weight: [V, H] LM head, of hidden's dtype.
        targets: [T] int64 in [0, V), the response tokens.
        cu_seqlens: [2N + 1] int32, where each sequence begins, and T; the order is chosen_0, rejected_0, chosen_1, ...
        reference_logps: [2N] floating point, the summed log-probs of each sequence under the reference.
        loss: "dpo" or "ipo". beta: > 0.
        length_normalize: divide the log-probs of a sequence, and its reference, by its number of tokens.
        label_smoothing: in [0, 0.5), the probability that a label is flipped; DPO only.
        nll_weight: >= 0, adds nll_weight times the mean over pairs of -log pi(chosen) per token.
        bias: [V] or None. logit_softcap: as in linear_logprobs.
        return_entropy: also return the policy's entropy at each token.
        filter_eps, chunk_tokens, backend, group: as in linear_logprobs.

    Raises:
        ValueError: as linear_logprobs.
    """
    require(loss in PREFERENCE_LOSSES, f"loss: expected one of {PREFERENCE_LOSSES}, got {loss!r}")
    check_scale("beta", beta)
    check_weight("nll_weight", nll_weight)
    require(0 <= label_smoothing < 0.5, f"label_smoothing: expected [0, 0.5), got {label_smoothing}")
    require(loss == "dpo" or label_smoothing == 0, "label_smoothing: defined for loss='dpo' only")
    head, options = resolve_head(
        hidden, weight, targets, bias, logit_softcap, 1.0, group,
        with_entropy=return_entropy, filter_eps=filter_eps, chunk_tokens=chunk_tokens, backend=backend,
    )  # fmt: skip
    check_pairs(cu_seqlens, reference_logps, hidden.device)
    terms = PairTerms(loss, beta, length_normalize, label_smoothing, nll_weight)
    if options.backend == "eager":
        check_targets(targets, head.vocab)
        read_cu_seqlens(cu_seqlens, hidden.size(0))
        logps, entropy = head_logprobs(hidden, head, targets, return_entropy)
        total, sequence_logps, rewards = _mean_loss(logps, cu_seqlens, reference_logps, terms)
    else:
        wanted = wanted_gradients(hidden, weight, bias)
        total, sequence_logps, rewards, entropy, *_ = _preference_operator(
            hidden, head, targets, options, wanted, cu_seqlens, reference_logps, terms
        )
    rewards = rewards.detach()
    return PreferenceOutput(
        loss=total,
        sequence_logps=sequence_logps.detach(),
        chosen_rewards=rewards[0::2],
        rejected_rewards=rewards[1::2],
        entropy=entropy if return_entropy else None,
    )


def linear_game_loss(attacker: PreferenceInputs, defender: PreferenceInputs, **options: Any) -> GameOutput:
    """The sum of both players' preference losses; their models may differ in H and V.

    Args:
        attacker, defender: each player's tensors.
        options: keyword arguments of linear_preference_loss, for both players.

    Raises:
        ValueError: as linear_preference_loss.
    """
    outputs = [linear_preference_loss(**vars(player), **options) for player in (attacker, defender)]
    return GameOutput(loss=outputs[0].loss + outputs[1].loss, attacker=outputs[0], defender=outputs[1])


def _mean_loss(
    logps: Tensor, cu_seqlens: Tensor, reference_logps: Tensor, terms: PairTerms
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean loss over pairs, sequence_logps [2N], rewards [2N]) from the log-probs of all tokens."""
    lengths = cu_seqlens.diff().long()
    sequence_logps = _sums(logps, lengths)
    losses, _, rewards = pair_losses(sequence_logps, reference_logps, lengths, terms)
    return losses.sum() / max(losses.numel(), 1), sequence_logps, rewards


def _sums(logps: Tensor, lengths: Tensor) -> Tensor:
    """[N] the sum of each sequence, in a fixed order. `unsafe` skips a check that read_cu_seqlens has made."""
    return torch.segment_reduce(logps, "sum", lengths=lengths, initial=0, unsafe=True)


def _preference(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    options: OpOptions,
    wanted: Wanted,
    cu_seqlens: Tensor,
    reference_logps: Tensor,
    terms: PairTerms,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, sequence_logps, rewards, entropy, and the loss's gradients with respect to hidden, weight and bias)."""
    check_targets(targets, head.vocab)
    workspace = Workspace(hidden, head, targets, options)
    lengths, tokens = cu_seqlens.diff().long(), hidden.size(0)
    if is_captured(hidden):  # the pairs' boundaries cannot be read: all of them are one chunk
        chunks, pairs = [(0, tokens)], [(0, lengths.numel() // 2)]
    else:
        begins = read_cu_seqlens(cu_seqlens, tokens)[0::2]  # of each pair, and the end
        pairs = group_into_chunks(begins, workspace.chunk_tokens)
        chunks = [(begins[first], begins[last]) for first, last in pairs]

    def coefficients(index: int, logps: Tensor) -> Tensor:
        """The derivative of the mean loss with respect to each log-prob: the same for all tokens of a sequence."""
        sequences = slice(2 * pairs[index][0], 2 * pairs[index][1])
        sums = _sums(logps, lengths[sequences])
        _, slopes, _ = pair_losses(sums, reference_logps[sequences], lengths[sequences], terms)
        return (slopes / (lengths.numel() // 2)).repeat_interleave(lengths[sequences], output_size=logps.numel())

    logps, entropy, gradients = differentiate_chunks(workspace, chunks, coefficients, wanted)
    return *_mean_loss(logps, cu_seqlens, reference_logps, terms), entropy, *gradients


def _preference_shapes(
    hidden: Tensor, head: Head, targets: Tensor, options: OpOptions, wanted: Wanted, cu_seqlens: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    sequences, tokens = cu_seqlens.size(0) - 1, hidden.size(0)
    shapes: tuple[tuple[int, ...], ...] = (), (sequences,), (sequences,), (tokens if options.with_entropy else 0,)
    values = (hidden.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return *values, *traced_gradients(hidden, head, wanted)


_preference_operator = loss_operator("preference", _preference, _preference_shapes, first=4)
