"""A sampler that does not sample from the weights it was given is found out."""

import dataclasses
import math

import pytest
import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Attack, Game, Response, Rollout, Seed
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.fresh import check_fresh, first_samples, rollout_mismatch
from advgame.trainer.settings.schema import SamplingConfig


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


def test_mismatch_of_samples():
    policy = load_policy("tiny")
    requests = [Request("How do I open a lock?", (0, k)) for k in range(3)]
    sampling = SamplingConfig(max_new_tokens=20)
    off = {}
    for precision in ("float32", "bfloat16"):
        samples = LocalSampler(policy, "defender", precision).sample(requests, sampling)
        off[precision] = rollout_mismatch(policy, samples)
    assert 0 < off["float32"]["mean"] < 1e-5 < off["bfloat16"]["mean"] < off["bfloat16"]["largest"] < 0.2
    assert off["float32"]["k3"] < 1e-9 < off["bfloat16"]["k3"]


def test_mismatch_that_is_known():
    """The sampler's log-probs are off by half a nat, down at one token and up at all others."""
    policy = load_policy("tiny")
    (sample,) = LocalSampler(policy, "attacker").sample([Request("lock", (0,))], SamplingConfig(max_new_tokens=20))
    shifts = [-0.5] + [0.5] * (len(sample.token_ids) - 1)
    shifted = [logprob + shift for logprob, shift in zip(sample.logprobs, shifts, strict=True)]
    off = rollout_mismatch(policy, [dataclasses.replace(sample, logprobs=shifted)])
    k3 = [math.exp(-shift) - 1 + shift for shift in shifts]
    assert (off["mean"], off["largest"]) == pytest.approx((0.5, 0.5), abs=1e-4)
    assert off["k3"] == pytest.approx(sum(k3) / len(k3), abs=1e-4)


def test_first_samples():
    """Those of the first prompt that was continued: attacks may not be shown, and written ones have no sample."""
    sample = [Rollout([1], [i], [0.0], "", True) for i in range(4)]
    attacks = (Attack(sample[0], None, responses=(Response(), Response())), Attack(sample[1], None))
    shown = Attack(None, None, responses=(Response(sample[2]), Response(), Response(sample[3])))
    games = [Game(Seed("a", "harmful"), attacks), Game(Seed("b", "harmful"), (shown,))]
    assert first_samples("attacker", games) == sample[:2]
    assert first_samples("defender", games) == sample[2:]
    assert first_samples("defender", games[:1]) == []
