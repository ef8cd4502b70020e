"""A sampler that does not sample from the weights it was given is found out."""

import pytest
import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.fresh import check_fresh


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stale_weights(precision):
    policy = load_policy("tiny")
    sampler = LocalSampler(policy, "defender", precision)
    check_fresh(sampler, policy, "defender")
    with torch.no_grad():
        for weight in policy.named_parameters().values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ConfigError, match=r"^defender: its sampler does not compute .* differ by"):
        check_fresh(sampler, policy, "defender")
    sampler.load(policy.named_parameters().items(), version=1)
    check_fresh(sampler, policy, "defender")


def test_one_weight_that_was_not_copied():
    policy = load_policy("tiny")
    sampler = LocalSampler(policy, "attacker")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.1)
    with pytest.raises(ConfigError, match="attacker"):
        check_fresh(sampler, policy, "attacker")


def test_weights_that_are_not_finite():
    policy = load_policy("tiny")
    sampler = LocalSampler(policy, "attacker")
    policy.model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ConfigError, match="differ by nan"):
        check_fresh(sampler, policy, "attacker")
