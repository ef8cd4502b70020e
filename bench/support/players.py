"""Players for the benches: copies of one policy, none of which moves."""

import copy

import torch

from advgame.trainer.learn.step import Learner, make_learner
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig
from support.reference import BETA


def make_policies(policy: Policy) -> PlayerPolicies:
    """A copy of the policy that has moved a little away from its moving average, which is another."""
    trained, average = (Policy(copy.deepcopy(policy.model), policy.tokenizer) for _ in range(2))
    generator = torch.Generator(trained.model.device).manual_seed(0)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.add_(1e-3 * parameter.std(correction=0) * noise)
    average.model.requires_grad_(False)
    return PlayerPolicies(trained, average)


def make_player(name: str, policies: PlayerPolicies, tokens_per_pack: int) -> Learner:
    """At a learning rate of 0, with an average that keeps still: all its steps are alike."""
    optimizer = OptimizerConfig(lr=0.0, tokens_per_pack=tokens_per_pack)
    config = PlayerConfig(ema_decay=1.0, loss=LossConfig(beta=BETA), optimizer=optimizer)
    return make_learner(name, policies, config)
