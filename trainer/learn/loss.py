"""What a player minimises on a pack, and the sums that its metrics are means of."""

import torch
from torch import Tensor

from advgame.kernels import linear_policy_loss, linear_preference_loss
from advgame.trainer.advantages import ScoredGroup
from advgame.trainer.config import LossConfig
from advgame.trainer.packing import Pack
from advgame.trainer.pairs import Pair

Item = Pair | ScoredGroup


def size(config: LossConfig, items: list[Item]) -> float:
    """What the mean loss is a mean over, so that parts of it can be put together: pairs, samples, or tokens."""
    if config.name != "grpo":
        return len(items)
    if config.normalization != "token_mean":
        return sum(len(item.rollouts) for item in items)
    return sum(
        len(rollout.token_ids)
        for item in items
        for rollout, valid in zip(item.rollouts, item.valid, strict=True)
        if valid
    )


def metric_names(config: LossConfig) -> tuple[str, ...]:
    """Of the loss and of what `objective` sums up, in its order."""
    if config.name == "grpo":
        return ("loss", "drift", "reference_mismatch")
    return (
        "loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp",
        "reference_mismatch",
    )  # fmt: skip


def objective(
    config: LossConfig, hidden: Tensor, head: dict, batch: Pack, items: list[Item], reference: Tensor, sampled: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """(mean loss of the items, sums over the items).

    Args:
        hidden: [R, H]. head: the LM head, as keyword arguments of the losses.
        reference, sampled: [R] log-probs of the response tokens under the reference, and when they were sampled.
    """
    common = {"targets": batch.targets, "cu_seqlens": batch.cu_seqlens, "filter_eps": config.filter_eps, **head}
    mismatch = token_means((reference - sampled).abs(), batch.cu_seqlens)
    if config.name == "grpo":
        loss, sums = _policy(config, hidden, common, items, reference, sampled)
    else:
        loss, sums = _preference(config, hidden, common, sequence_sums(reference, batch.cu_seqlens))
    return loss, sums | {"reference_mismatch": mismatch.sum() / len(mismatch) * len(items)}


def _preference(config: LossConfig, hidden: Tensor, common: dict, reference_logps: Tensor):
    """accuracy: pairs whose margin is positive; margin, rewards: DPO's implicit ones; logp: of sequences."""
    output = linear_preference_loss(
        hidden,
        reference_logps=reference_logps,
        loss=config.name,
        beta=config.beta,
        length_normalize=config.length_normalize,
        label_smoothing=config.label_smoothing,
        nll_weight=config.nll_weight,
        **common,
    )
    margins = output.chosen_rewards - output.rejected_rewards
    return output.loss, {
        "accuracy": (margins > 0).sum(),
        "margin": margins.sum(),
        "chosen_reward": output.chosen_rewards.sum(),
        "rejected_reward": output.rejected_rewards.sum(),
        "chosen_logp": output.sequence_logps[0::2].sum(),
        "rejected_logp": output.sequence_logps[1::2].sum(),
    }


def _policy(config: LossConfig, hidden: Tensor, common: dict, groups: list[ScoredGroup], reference, sampled):
    """drift: how far a token's log-prob has moved from the reference's, as the mean over a group's samples."""
    device, samples = hidden.device, [len(group.rollouts) for group in groups]
    output = linear_policy_loss(
        hidden,
        advantages=torch.tensor([a for group in groups for a in group.advantages], device=device),
        valid=torch.tensor([v for group in groups for v in group.valid], device=device),
        reference_logps=reference if config.beta else None,
        sampling_logps=sampled if config.importance_cap else None,
        importance_cap=config.importance_cap or 1.0,
        beta=config.beta,
        normalization=config.normalization,
        **common,
    )
    drift = token_means(output.logps - reference, common["cu_seqlens"]).split(samples)
    return output.loss, {"drift": torch.stack([part.mean() for part in drift]).sum()}


def sequence_sums(logps: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S] of [R]."""
    return torch.segment_reduce(logps, "sum", lengths=cu_seqlens.diff().long(), initial=0)


def token_means(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S] of [R]."""
    return sequence_sums(values, cu_seqlens) / cu_seqlens.diff()
