"""A backward pass that computes some activations again: the same gradients, and less is kept for it."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers import policy_of, random_model
from torch.profiler import ProfilerActivity, profile

from advgame.trainer.learn.forward import packed_attention, response_hidden
from advgame.trainer.learn.recompute import recomputing
from advgame.trainer.models.families import MODEL_TYPES
from advgame.trainer.packs import Group, pack

GROUPS = [Group([5, 6, 7], [[8, 9], [10]]), Group([11] * 9, [[12] * 300])]
CPU = torch.device("cpu")


def gradients_and_kept(model, context) -> tuple[list[torch.Tensor], int]:
    """Of the weights that are trained, and the bytes that a forward pass keeps for them."""
    weights = [p for name, p in model.named_parameters() if p.requires_grad and "lm_head" not in name]
    batch = pack(GROUPS, CPU)
    with packed_attention(model), context, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = response_hidden(policy_of(model), batch).square().sum()
    kept = sum(event.self_cpu_memory_usage for event in profiler.key_averages())
    with packed_attention(model):
        return torch.autograd.grad(loss, weights), kept


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_gradients_are_the_same_bit_for_bit_and_less_is_kept(family):
    model = random_model(family)
    gradients_and_kept(model, nullcontext())  # buffers made on first use
    (expected, everything), (some, fewer), (all_, fewest) = (
        gradients_and_kept(model, recomputing(model, what)) for what in ("none", "cheap", "layers")
    )
    for wanted, *actual in zip(expected, some, all_, strict=True):
        assert all(torch.equal(gradient, wanted) for gradient in actual)
    assert fewest < 0.3 * everything
    assert fewer < (1.0 if family == "phi3" else 0.9) * everything  # phi3 joins gate and up in one product
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_module_with_a_forward_of_its_own_keeps_it():
    """As Liger's have, which keep little anyway."""
    model = random_model("llama")
    mlp = model.base_model.layers[0].mlp
    own = mlp.forward = partial(type(mlp).forward, mlp)
    with recomputing(model, "cheap"):
        assert mlp.forward is own
        assert "forward" in vars(model.base_model.layers[1].mlp)
    assert mlp.forward is own
