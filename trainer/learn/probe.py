"""Whether weights are sound, which is asked before they are saved: a step can ruin them that saw finite numbers only.

No one sign is enough. A huge step leaves weights that are finite but absurdly sure of other tokens; a still larger one
leaves weights that give all tokens the same log-prob, and a gradient that is zero or not finite.
"""

import math
from collections.abc import Sequence
from functools import partial

from advgame.trainer.learn.collate import group_of
from advgame.trainer.learn.forward import logprobs, packed_attention, reference_logps
from advgame.trainer.learn.recompute import recomputing
from advgame.trainer.learn.step import Learner
from advgame.trainer.models.policy import Policy
from advgame.trainer.packs import Pack, pack, plan_packs
from advgame.trainer.records import Item

ABSURD = -100.0
"""Mean log-prob of a token that the player has sampled; a guess gives about -10."""


def find_fault(learner: Learner, items: Sequence[Item]) -> str | None:
    """What is wrong with the weights of a player or of its averages; None if they are sound.

    Every weight is looked at, and for a pack of `items`, those that the weights have learnt from last: the log-probs,
    and for the policy their gradient. All processes take part, and find the same.
    """
    groups = [group_of(item) for item in items]
    first = plan_packs(groups, learner.config.optimizer.tokens_per_pack)[0]
    tried = pack([groups[i] for i in first], learner.player.device)
    for suffix, policy in learner.policies.by_suffix.items():
        if fault := fault_of(policy, tried):
            return f"{learner.name}{suffix}: {fault}"
    norm = gradient_norm(learner, tried)
    return None if 0 < norm < math.inf else f"{learner.name}: the norm of a gradient is {norm}"


def fault_of(policy: Policy, tried: Pack) -> str | None:
    """What is wrong with these weights, but for their gradient."""
    for name, weight in policy.weights():
        if not weight.isfinite().all():
            return f"{name} is not finite"
    (logps,) = reference_logps(policy, [tried])
    logp = logps.mean().item()
    return None if logp > ABSURD else f"its own samples have a mean log-prob of {logp:.3g} a token"


def gradient_norm(learner: Learner, tried: Pack) -> float:
    """Of the mean log-prob; no step is taken, and no gradient is left behind."""
    model = learner.player.model
    with packed_attention(model), recomputing(model, "layers"):
        learner.engine.backward(learner.forward(tried, partial(logprobs, pack=tried)).mean())
    return learner.engine.drop()
