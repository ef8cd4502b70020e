"""What a player minimises, and the metrics that go with it. To add a loss: a class, and a line in OBJECTIVES."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from advgame.kernels import linear_policy_loss, linear_preference_loss
from advgame.trainer.learn.collate import Batch
from advgame.trainer.models.head import Head
from advgame.trainer.records import Item, ScoredGroup
from advgame.trainer.settings.schema import LossConfig


class LossOutput(NamedTuple):
    """The loss of a batch."""

    loss: Tensor
    """Scalar: the mean over the batch's pairs, samples or tokens."""
    sums: dict[str, Tensor]
    """Metrics, summed over the batch's items; scalars, detached."""


class Objective(Protocol):
    """A loss with its metrics."""

    unit: ClassVar[str]
    """What the items are called in the metrics: pairs or groups."""

    def count(self, items: Sequence[Item]) -> float:
        """Number of pairs, samples or tokens the loss averages over."""

    def __call__(self, hidden: Tensor, head: Head, batch: Batch) -> LossOutput:
        """hidden: [R, H], the states that predict the response tokens of the batch."""


@dataclass(frozen=True)
class PreferenceObjective:
    """DPO and IPO.

    accuracy: pairs whose margin is positive; margin, chosen_reward, rejected_reward: DPO's implicit rewards;
    chosen_logp, rejected_logp: of whole responses.
    """

    config: LossConfig
    unit: ClassVar[str] = "pairs"

    def count(self, items: Sequence[Item]) -> float:
        return len(items)

    def __call__(self, hidden: Tensor, head: Head, batch: Batch) -> LossOutput:
        config, pack = self.config, batch.pack
        output = linear_preference_loss(
            hidden,
            targets=pack.targets,
            cu_seqlens=pack.cu_seqlens,
            reference_logps=sequence_sums(batch.reference_logps, pack.cu_seqlens),
            loss=config.name,
            beta=config.beta,
            length_normalize=config.length_normalize,
            label_smoothing=config.label_smoothing,
            nll_weight=config.nll_weight,
            filter_eps=config.filter_eps,
            **head,
        )
        margins = output.chosen_rewards - output.rejected_rewards
        sums = {
            "accuracy": (margins > 0).sum(),
            "margin": margins.sum(),
            "chosen_reward": output.chosen_rewards.sum(),
            "rejected_reward": output.rejected_rewards.sum(),
            "chosen_logp": output.sequence_logps[0::2].sum(),
            "rejected_logp": output.sequence_logps[1::2].sum(),
        }
        return LossOutput(output.loss, sums | reference_mismatch(batch))


@dataclass(frozen=True)
class PolicyObjective:
    """GRPO.

    drift: how far a token's log-prob has moved from the reference's, as a mean over the samples of a group.
    """

    config: LossConfig
    unit: ClassVar[str] = "groups"

    def count(self, items: Sequence[Item]) -> float:
        if self.config.normalization != "token_mean":
            return sum(len(group.rollouts) for group in items)
        return sum(
            len(rollout.token_ids)
            for group in items
            if isinstance(group, ScoredGroup)
            for rollout, valid in zip(group.rollouts, group.valid, strict=True)
            if valid
        )

    def __call__(self, hidden: Tensor, head: Head, batch: Batch) -> LossOutput:
        config, pack = self.config, batch.pack
        output = linear_policy_loss(
            hidden,
            targets=pack.targets,
            cu_seqlens=pack.cu_seqlens,
            advantages=batch.advantages,
            valid=batch.valid,
            reference_logps=batch.reference_logps if config.beta else None,
            sampling_logps=batch.sampled_logps if config.importance_cap else None,
            importance_cap=config.importance_cap or 1.0,
            beta=config.beta,
            normalization=config.normalization,
            filter_eps=config.filter_eps,
            **head,
        )
        drift = token_means(output.logps - batch.reference_logps, pack.cu_seqlens).split(batch.samples)
        sums = {"drift": torch.stack([part.mean() for part in drift]).sum()}
        return LossOutput(output.loss, sums | reference_mismatch(batch))


OBJECTIVES: dict[str, Callable[[LossConfig], Objective]] = {
    "dpo": PreferenceObjective,
    "ipo": PreferenceObjective,
    "grpo": PolicyObjective,
}


def make_objective(config: LossConfig) -> Objective:
    return OBJECTIVES[config.name](config)


def reference_mismatch(batch: Batch) -> dict[str, Tensor]:
    """Mean distance of a token's reference log-prob from the sampler's; nothing if the reference is the sampler."""
    if batch.recomputed_logps is None:
        return {}
    means = token_means((batch.recomputed_logps - batch.sampled_logps).abs(), batch.pack.cu_seqlens)
    return {"reference_mismatch": means.sum() / len(means) * len(batch.samples)}


def sequence_sums(logps: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S] of [R]."""
    return torch.segment_reduce(logps, "sum", lengths=cu_seqlens.diff().long(), initial=0)


def token_means(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S] of [R]."""
    return sequence_sums(values, cu_seqlens) / cu_seqlens.diff()
