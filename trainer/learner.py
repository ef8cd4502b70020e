"""Pairs -> packs -> loss -> optimiser -> EMA, for one player."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from advgame.kernels import linear_logprobs, linear_preference_loss
from advgame.trainer import distributed
from advgame.trainer.config import ConfigError, OptimizerConfig, PlayerConfig
from advgame.trainer.models import Player, Policy, head
from advgame.trainer.packed import packed_attention, response_hidden
from advgame.trainer.packing import Group, Pack, pack, plan_packs
from advgame.trainer.pairs import Pair


@dataclass(frozen=True)
class Learner:
    """A player that is trained."""

    name: str
    player: Player
    optimizer: torch.optim.Optimizer
    config: PlayerConfig


def make_learner(name: str, player: Player, config: PlayerConfig) -> Learner:
    """A frozen player gets no gradients, and its moving average stays what it is."""
    for parameter in player.policy.named_parameters().values():
        parameter.requires_grad_(config.train)
    if config.optimizer.checkpoint_activations:
        for layer in player.policy.model.base_model.layers:
            if not isinstance(layer.forward, partial):  # the other player may share it
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return Learner(name, player, _adamw(player.policy, config.optimizer), config)


def learn(learner: Learner, pairs: list[Pair], step: int) -> dict:
    """One optimiser step on the mean loss over `pairs`, those of all processes, then the EMA's.

    Without any pair the optimiser rests and only the EMA moves. Returns the step's metrics. Raises
    FloatingPointError, before the weights are touched, when the gradient is not finite.
    """
    config = learner.config
    if not config.train:
        return {"pairs": len(pairs)}
    metrics = {"pairs": len(pairs), "lr": _set_learning_rate(learner, step)}
    if pairs:
        learner.optimizer.zero_grad(set_to_none=True)
        totals = accumulate(learner, pairs)
        parameters = list(learner.player.policy.named_parameters().values())
        for parameter in parameters:
            if parameter.grad is None:  # this process had no pair
                parameter.grad = torch.zeros_like(parameter)
        distributed.sum_([totals, *(parameter.grad for parameter in parameters)])
        limit = config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        metrics |= dict(zip(_TOTALS, (totals / len(pairs)).tolist(), strict=True)) | {"grad_norm": norm}
        if config.reference == "rollout":  # nothing to compare it with
            del metrics["reference_mismatch"]
        if not (math.isfinite(norm) and math.isfinite(metrics["loss"])):
            raise FloatingPointError(
                f"{learner.name}: loss {metrics['loss']}, gradient norm {norm} at step {step}; the weights are "
                f"untouched. Lower {learner.name}.optimizer.lr, or look for broken weights in the model."
            )
        learner.optimizer.step()
    update_ema(learner)
    return metrics


_TOTALS = (
    "loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp",
    "reference_mismatch",
)  # fmt: skip
"""accuracy: share of pairs whose margin is positive; margin, rewards: DPO's implicit ones; logp: of sequences;
reference_mismatch: per token, how far the reference's log-probs are from those that the rollout was sampled with."""


def accumulate(learner: Learner, pairs: list[Pair]) -> Tensor:
    """Gradients of this process's part of the mean loss; returns its part of the sums of _TOTALS.

    The mean is over all pairs: neither their packs nor the processes matter to it.
    """
    policy, config = learner.player.policy, learner.config
    share = distributed.my_share(pairs)
    groups = [Group(pair.prompt_ids, [pair.chosen.token_ids, pair.rejected_ids]) for pair in share]
    totals = torch.zeros(len(_TOTALS), device=policy.model.device)
    try:
        plan = plan_packs([group.tokens for group in groups], config.optimizer.tokens_per_pack)
    except ValueError as error:
        raise ConfigError(f"{learner.name}.optimizer.tokens_per_pack: {error}") from error
    for indices in plan:
        batch = pack(groups, indices, policy.model.device)
        sampled = torch.tensor([logp for i in indices for logp in share[i].logprobs], device=policy.model.device)
        logps = sampled if config.reference == "rollout" else reference_logps(learner.player.ema, batch)
        policy.activate()
        with packed_attention(policy.model):
            hidden = response_hidden(policy.model, batch)
            output = linear_preference_loss(
                hidden,
                targets=batch.targets,
                cu_seqlens=batch.cu_seqlens,
                reference_logps=sequence_sums(logps, batch.cu_seqlens),
                loss=config.loss.name,
                beta=config.loss.beta,
                length_normalize=config.loss.length_normalize,
                label_smoothing=config.loss.label_smoothing,
                nll_weight=config.loss.nll_weight,
                filter_eps=config.loss.filter_eps,
                **head(policy.model, hidden.dtype),
            )
            (output.loss * (len(indices) / len(pairs))).backward()
        margins = output.chosen_rewards - output.rejected_rewards
        totals += torch.stack(
            [
                output.loss.detach() * len(indices),
                (margins > 0).sum(),
                margins.sum(),
                output.chosen_rewards.sum(),
                output.rejected_rewards.sum(),
                output.sequence_logps[0::2].sum(),
                output.sequence_logps[1::2].sum(),
                (sequence_sums((logps - sampled).abs(), batch.cu_seqlens) / batch.cu_seqlens.diff()).sum() / 2,
            ]
        )
    return totals


@torch.no_grad()
def reference_logps(reference: Policy, batch: Pack) -> Tensor:
    """[R] log-probs of the response tokens."""
    reference.activate()
    with packed_attention(reference.model):
        hidden = response_hidden(reference.model, batch)
        return linear_logprobs(hidden, targets=batch.targets, **head(reference.model, hidden.dtype))


def sequence_sums(logps: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S] of [R]."""
    return torch.segment_reduce(logps, "sum", lengths=cu_seqlens.diff().long(), initial=0)


def _adamw(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases) are not decayed."""
    parameters = policy.named_parameters().values()
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), fused=True)


def _set_learning_rate(learner: Learner, step: int) -> float:
    config = learner.config.optimizer
    lr = config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    return lr


@torch.no_grad()
def update_ema(learner: Learner) -> None:
    """ema <- decay ema + (1 - decay) policy."""
    average = get_ema_multi_avg_fn(learner.config.ema_decay)
    ema, policy = (list(p.named_parameters().values()) for p in (learner.player.ema, learner.player.policy))
    average(ema, policy, None)
