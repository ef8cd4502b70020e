"""A player's optimiser step: items are collated, forwarded and differentiated, the weights step, averages follow."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.engines.base import Engine
from advgame.trainer.engines.single import SingleEngine
from advgame.trainer.engines.zero import ZeroEngine
from advgame.trainer.learn.collate import Batch, collate, group_of
from advgame.trainer.learn.forward import Player, check_packable, packed_attention, reference_logps
from advgame.trainer.learn.loss import Objective, make_objective
from advgame.trainer.learn.recompute import Recompute, recomputing
from advgame.trainer.learn.sharded import sharded
from advgame.trainer.learn.track import track
from advgame.trainer.models.policy import PlayerPolicies
from advgame.trainer.packs import GroupTooLarge
from advgame.trainer.records import Item
from advgame.trainer.settings.schema import OptimizerConfig, PlayerConfig, ZeroConfig


@dataclass(frozen=True)
class Learner:
    """A player, and all that it takes to train it."""

    name: str
    player: Player
    forward: Callable
    """The player, by way of its engine."""
    engine: Engine
    policies: PlayerPolicies
    config: PlayerConfig


def make_learner(
    name: str,
    policies: PlayerPolicies,
    config: PlayerConfig,
    objective: Objective | None = None,
    zero: ZeroConfig | None = None,
) -> Learner:
    """A frozen player gets no gradients, and its moving averages stay what they are.

    name: attacker or defender. objective: None is that of the settings. zero: what the ranks share out; None: nothing.
    Raises ConfigError if the model cannot be trained in packs.
    """
    check_packable(policies.policy, config.model)
    shared = zero is not None and zero.stage > 0 and config.train
    player = Player(policies.policy, objective or make_objective(config.loss), hooked=shared)
    for parameter in policies.policy.named_parameters().values():
        parameter.requires_grad_(config.train)
    if zero is None or not shared:
        engine = SingleEngine(player.named_parameters(), config.optimizer)
        return Learner(name, player, player, engine, policies, config)
    zero_engine = ZeroEngine(player, config.optimizer, zero, policies.policy.products)
    return Learner(name, player, zero_engine.forward, zero_engine, sharded(policies, player, zero_engine), config)


def learn(
    learner: Learner,
    items: Sequence[Item],
    step: int,
    its_turn: bool = True,
    loss_limit: float = math.inf,
    steps: float = math.inf,
) -> dict:
    """One optimiser step on the mean loss over `items`, those of all processes; then the moving averages follow.

    A player that is frozen, or whose turn it is not, stays as it is. Without any item only the averages move. If a
    number is not finite or the loss is above its limit, the step is skipped: weights, optimiser and averages stay as
    they are, and `skipped` says why. `steps` is the length of the run. Returns the step's metrics; all processes decide
    alike.
    """
    config, objective = learner.config, learner.player.objective
    metrics: dict = {objective.unit: len(items)}
    if not (config.train and its_turn):
        return metrics
    metrics["lr"] = learning_rate(config.optimizer, step, steps)
    if objective.count(items):
        metrics |= take_step(learner, items, metrics["lr"], loss_limit)
    if "skipped" not in metrics:
        follow(learner)
    return metrics


def learning_rate(config: OptimizerConfig, step: int, steps: float) -> float:
    """Of a step, in a run of so many: linear warm-up, constant, linear decay."""
    warmed, left = (step + 1) / max(config.warmup_steps, 1), (steps - step) / max(config.decay_steps, 1)
    return config.lr * min(1.0, warmed, left)


def take_step(learner: Learner, items: Sequence[Item], lr: float, loss_limit: float = math.inf) -> dict:
    """Returns the loss, its metrics and the norm of its gradient, or why no step was taken."""
    metrics = accumulate(learner, items)
    fault = next((f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)), None)
    if fault is None and metrics["loss"] > loss_limit:
        fault = f"loss {metrics['loss']:.4g}, of at most {loss_limit:.4g} by max_loss_ratio"
    if fault is not None:
        learner.engine.drop()
        return {"skipped": fault}
    norm = learner.engine.step(lr)
    if not math.isfinite(norm):
        return {"skipped": f"gradient norm {norm}"}
    tokens = sum(group_of(item).tokens for item in items)
    return {"tokens": tokens} | metrics | {"grad_norm": norm}


def accumulate(
    learner: Learner, items: Sequence[Item], share_prefixes: bool = True, recompute: Recompute | None = None
) -> dict[str, float]:
    """The gradients of this process's part of the mean loss. Returns the loss and its metrics, of all processes.

    The means are over all items: neither packs nor processes matter to them.

    Args:
        items: those of all processes, at least one.
        share_prefixes: as in `collate`.
        recompute: as in `recomputing`; None: as the settings say.
    """
    model = learner.player.model
    totals: dict[str, Tensor] = {}
    recompute = recompute or ("layers" if learner.config.optimizer.checkpoint_activations else "cheap")
    for batch in batches(learner, items, share_prefixes):
        with packed_attention(model), recomputing(model, recompute):
            output = learner.forward(batch.pack, partial(learner.player.objective, batch=batch))
            loss = output.loss * batch.share
            learner.engine.backward(loss)
        means = {"loss": loss.detach()} | {name: value / len(items) for name, value in output.sums.items()}
        for name, value in means.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * batch.counts
    return summed(totals)


def batches(learner: Learner, items: Sequence[Item], share_prefixes: bool) -> list[Batch]:
    """What this process forwards, with the reference's log-probs. Raises ConfigError if an item fits into no pack."""
    budget = learner.config.optimizer.tokens_per_pack
    try:
        plan = collate(items, learner.player.objective.count, budget, learner.player.device, share_prefixes)
    except GroupTooLarge as error:
        raise ConfigError(f"{learner.name}.optimizer.tokens_per_pack: {error}") from error
    if learner.config.reference != "recompute":
        return plan
    recomputed = reference_logps(learner.policies.reference, [batch.pack for batch in plan])
    return [replace(batch, recomputed_logps=logps) for batch, logps in zip(plan, recomputed, strict=True)]


def summed(totals: dict[str, Tensor]) -> dict[str, float]:
    """Each total's sum over the processes."""
    values = torch.stack(list(totals.values()))
    collectives.sum_([values])
    return dict(zip(totals, values.tolist(), strict=True))


def follow(learner: Learner) -> None:
    """The player's moving averages follow its policy."""
    policies, config = learner.policies, learner.config
    for average, decay in ((policies.ema, config.ema_decay), (policies.slow, config.reference_decay)):
        if average is not None and decay is not None:
            track(average.shards(), learner.engine.shards(), decay)
