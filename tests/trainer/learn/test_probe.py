"""Weights that must not be saved."""

import pytest
import torch
from helpers import make_policies

from advgame.trainer.learn.probe import find_fault
from advgame.trainer.learn.step import Learner, learn, make_learner
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.settings.schema import OptimizerConfig, PlayerConfig

ITEMS = [Pair(*(Rollout([1, 2, 3, i], ids, [-4.0] * 3, "", True) for ids in ([4, 5, 6], [7, 8, 9]))) for i in range(4)]


@pytest.fixture
def learner() -> Learner:
    return make_learner("attacker", make_policies("tiny"), PlayerConfig(optimizer=OptimizerConfig(lr=1e-3)))


def test_sound_weights_have_no_fault_and_nothing_changes(learner):
    learn(learner, ITEMS, 0)
    before = {name: weight.clone() for name, weight in learner.engine.weights()}
    state = {name: value.clone() for name, value in learner.engine.state().items()}
    assert find_fault(learner, ITEMS) is None
    assert all(torch.equal(before[name], weight) and weight.grad is None for name, weight in learner.engine.weights())
    assert all(torch.equal(state[name], value) for name, value in learner.engine.state().items())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("suffix", ["", "_ema"])
def test_a_weight_that_is_not_finite_is_named_even_if_no_token_uses_it(learner, suffix, value):
    with torch.no_grad():
        learner.policies.by_suffix[suffix].model.model.embed_tokens.weight[50, 0] = value
    assert find_fault(learner, ITEMS) == f"attacker{suffix}: model.embed_tokens.weight is not finite"


def test_log_probs_that_are_absurd_are_a_fault(learner):
    with torch.no_grad():
        learner.policies.ema.model.model.norm.weight.mul_(1e4)
    fault = find_fault(learner, ITEMS)
    assert fault is not None and fault.startswith("attacker_ema: its own samples have a mean log-prob of -")


def test_a_gradient_that_overflows_is_a_fault(learner):
    mlp = learner.player.model.model.layers[0].mlp
    with torch.no_grad():
        mlp.up_proj.weight.mul_(1e25)
        mlp.down_proj.weight.mul_(1e-25)
    assert find_fault(learner, ITEMS) == "attacker: the norm of a gradient is inf"
