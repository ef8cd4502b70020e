"""The backends: each is what backend.Backend describes, and one is picked that can run."""

import inspect

import pytest
import torch

from advgame.kernels.backend import Backend
from advgame.kernels.registry import BACKENDS, primitives, resolve_backend

METHODS = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_satisfies_the_protocol(name):
    """Parameter by parameter, with their types; what a function takes beyond that has a default."""
    if BACKENDS[name].missing:
        pytest.skip(BACKENDS[name].missing)
    module = primitives(name)
    assert isinstance(module.CHUNK_TOKENS, int)
    assert METHODS == ["probs_buffer", "weight_sums", "head_forward", "head_backward", "scale"]
    for method in METHODS:
        _, *expected = inspect.signature(getattr(Backend, method)).parameters.values()
        actual = list(inspect.signature(getattr(module, method)).parameters.values())
        assert actual[: len(expected)] == expected, method
        assert all(parameter.default is not inspect.Parameter.empty for parameter in actual[len(expected) :]), method


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend: expected 'eager', 'cpu', 'triton' or None, got 'tpu'"):
        resolve_backend("tpu", torch.zeros(1))


@pytest.mark.parametrize("tensor", [torch.zeros(1, dtype=torch.float64), torch.zeros(1, device="meta")])
def test_eager_is_the_default_where_no_other_backend_can_run(tensor):
    assert resolve_backend(None, tensor) == "eager"
    assert resolve_backend("eager", tensor) == "eager"
