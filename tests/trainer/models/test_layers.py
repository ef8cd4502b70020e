"""Layers that are computed in one pass: the same model, in every family."""

import pytest
import torch
from helpers import random_model

from advgame.trainer.models.families import MODEL_TYPES
from advgame.trainer.models.layers import GatedMLP, RMSNorm, fuse_layers

IDS = torch.tensor([[3, 7, 7, 9, 20, 4]])


def own_layers(family: str):
    """A random model with transformers' own layers, and the same with ours."""
    model = random_model(family)
    own = type(model)(model.config).eval()
    own.load_state_dict(model.state_dict())
    return own, model


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_the_same_states_and_gradients(family):
    results = []
    for model in own_layers(family):
        states = model.base_model(IDS, use_cache=False).last_hidden_state
        weights = [weight for name, weight in model.named_parameters() if "lm_head" not in name]
        upstream = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        results.append([states, *torch.autograd.grad(states, weights, upstream)])
    for expected, actual in zip(*results, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_in_bfloat16_it_is_no_further_from_float32(family):
    own, model = own_layers(family)
    exact = own.base_model(IDS, use_cache=False).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(m.base_model(IDS, use_cache=False).last_hidden_state - exact).norm() for m in (own, model)]
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_weights_keep_their_names_and_order(family):
    own, model = own_layers(family)
    assert list(own.state_dict()) == list(model.state_dict())
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_what_is_replaced():
    """Norms before products, and SwiGLU: not what follows a product (Olmo2), nor gates of joined weights (Phi3)."""
    kinds = {
        family: {type(m).__name__ for m in random_model(family).modules() if isinstance(m, RMSNorm | GatedMLP)}
        for family in MODEL_TYPES
    }
    assert kinds.pop("olmo2") == {"GatedMLP"} and kinds.pop("phi3") == {"RMSNorm"}
    assert all(found == {"RMSNorm", "GatedMLP"} for found in kinds.values())


def test_another_activation_stays():
    model = random_model("llama")
    model = type(model)(type(model.config)(**{**model.config.to_dict(), "hidden_act": "gelu"}))
    fuse_layers(model)
    assert not any(isinstance(module, GatedMLP) for module in model.modules())
