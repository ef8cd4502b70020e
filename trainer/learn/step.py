"""Pairs, or scored groups -> packs -> loss -> optimiser -> EMA, for one player."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from advgame.kernels import linear_logprobs
from advgame.trainer import distributed
from advgame.trainer.activations import recomputing
from advgame.trainer.config import ConfigError, OptimizerConfig, PlayerConfig
from advgame.trainer.models import Policy, head
from advgame.trainer.objectives import Item, metric_names, objective, size
from advgame.trainer.packed import add_embedding_gradient, embed, packed_attention, response_hidden
from advgame.trainer.packing import Pack, pack, plan_packs
from advgame.trainer.players import Player


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
    return Learner(name, player, _adamw(player.policy, config.optimizer), config)


def learn(learner: Learner, items: list[Item], step: int, its_turn: bool = True) -> dict:
    """One optimiser step on the mean loss over `items`, those of all processes, then the EMA's.

    A player that is frozen, or whose turn it is not, stays as it is. Without any item the optimiser rests and only the
    EMA moves. Returns the step's metrics. Raises FloatingPointError, before the weights are touched, when the gradient
    is not finite.
    """
    config, count = learner.config, {"groups" if learner.config.loss.name == "grpo" else "pairs": len(items)}
    if not (config.train and its_turn):
        return count
    metrics = count | {"lr": _set_learning_rate(learner, step)}
    if size(config.loss, items):
        metrics["tokens"] = sum(item.group.tokens for item in items)
        learner.optimizer.zero_grad(set_to_none=True)
        totals = accumulate(learner, items)
        parameters = list(learner.player.policy.named_parameters().values())
        for parameter in parameters:
            if parameter.grad is None:  # this process had no item
                parameter.grad = torch.zeros_like(parameter)
        distributed.sum_([totals, *(parameter.grad for parameter in parameters)])
        limit = config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        metrics |= dict(zip(metric_names(config.loss), totals.tolist(), strict=True)) | {"grad_norm": norm}
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


def accumulate(learner: Learner, items: list[Item]) -> Tensor:
    """Gradients of this process's part of the mean loss; returns its part of the metrics.

    The mean is over all items: neither their packs nor the processes matter to it.
    """
    policy, config = learner.player.policy, learner.config
    share, whole = distributed.my_share(items), size(config.loss, items)
    metrics = torch.zeros(len(metric_names(config.loss)), device=policy.model.device)
    try:
        plan = plan_packs([item.group for item in share], config.optimizer.tokens_per_pack)
    except ValueError as error:
        raise ConfigError(f"{learner.name}.optimizer.tokens_per_pack: {error}") from error
    for indices in plan:
        part = [share[i] for i in indices]
        batch = pack([item.group for item in part], policy.model.device)
        sampled = torch.tensor([logp for item in part for logp in item.logprobs], device=policy.model.device)
        reference = sampled if config.reference == "rollout" else reference_logps(learner.player.reference, batch)
        policy.activate()
        with packed_attention(policy.model), recomputing(policy.model, config.optimizer.checkpoint_activations):
            embeddings = embed(policy.model, batch)
            hidden = response_hidden(policy.model, batch, embeddings)
            loss, sums = objective(
                config.loss, hidden, head(policy.model, hidden.dtype), batch, part, reference, sampled
            )
            loss = loss * (size(config.loss, part) / whole)
            loss.backward()
            add_embedding_gradient(policy.model, batch, embeddings)
        metrics += torch.stack([loss.detach(), *(value / len(items) for value in sums.values())])
    return metrics


@torch.no_grad()
def reference_logps(reference: Policy, batch: Pack) -> Tensor:
    """[R] log-probs of the response tokens."""
    reference.activate()
    with packed_attention(reference.model):
        hidden = response_hidden(reference.model, batch)
        return linear_logprobs(hidden, targets=batch.targets, **head(reference.model, hidden.dtype))


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
    player, config = learner.player, learner.config
    policy = list(player.policy.named_parameters().values())
    for average, decay in ((player.ema, config.ema_decay), (player.slow, config.reference_decay)):
        if average:
            get_ema_multi_avg_fn(decay)(list(average.named_parameters().values()), policy, None)
