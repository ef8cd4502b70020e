"""The engine of a single process, which also runs on several: AdamW, clipping, and the state that is saved."""

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import Parameter

from advgame.trainer.engines.saved import SavedState
from advgame.trainer.engines.single import SingleEngine
from advgame.trainer.settings.schema import OptimizerConfig


def make_parameters() -> dict[str, Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"layer.norm": (3,), "layer.weight": (3, 2), "unused": (2, 2)}
    return {name: Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def make_engine(parameters: dict[str, Parameter], **config) -> SingleEngine:
    return SingleEngine(parameters.items(), OptimizerConfig(**{"lr": 0.1, "max_grad_norm": 0.0} | config))


def loss_of(parameters: dict[str, Parameter], scale: float = 1.0) -> torch.Tensor:
    return scale * ((parameters["layer.weight"] ** 3).sum() + (parameters["layer.norm"] ** 2).sum())


def test_a_step_is_adamw_on_the_sum_of_the_losses():
    """Vectors are not decayed; a parameter that the losses do not depend on is."""
    actual, expected = make_parameters(), make_parameters()
    engine = make_engine(actual, weight_decay=0.3)
    groups = [
        {"params": [expected["layer.weight"], expected["unused"]], "weight_decay": 0.3},
        {"params": [expected["layer.norm"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for lr in (0.1, 0.05):
        for scale in (0.25, 0.75):
            engine.backward(loss_of(actual, scale))
        loss_of(expected).backward()
        expected["unused"].grad = torch.zeros(2, 2)
        norm = torch.cat([p.grad.flatten() for p in expected.values()]).norm()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        assert engine.step(lr) == pytest.approx(norm.item(), rel=1e-5)
        assert all(parameter.grad is None for parameter in actual.values())
    for name, parameter in actual.items():
        assert torch.allclose(parameter, expected[name], rtol=1e-5, atol=1e-6), name


def test_gradients_are_clipped():
    parameters = make_parameters()
    engine = make_engine(parameters, max_grad_norm=0.01, betas=[0.9, 0.95])
    engine.backward(loss_of(parameters))
    assert engine.step(0.1) > 0.01
    first_moments = [value.flatten() for key, value in engine.state().items() if key.endswith("/exp_avg")]
    assert torch.cat(first_moments).norm().item() == pytest.approx(0.01 * (1 - 0.9), rel=1e-3)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_the_weights_untouched(scale):
    parameters = make_parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    engine = make_engine(parameters)
    engine.backward(loss_of(parameters, scale))
    assert not torch.tensor(engine.step(0.1)).isfinite()
    assert all(torch.equal(before[name], parameter) for name, parameter in parameters.items())
    assert engine.state() == {}


@pytest.mark.parametrize("size", [1e18, 5e18, 2e19, 1e30])
def test_moments_never_overflow(size):
    """Where the square of a gradient would overflow in them, its norm does, and no step is taken."""
    parameters = make_parameters()
    engine = make_engine(parameters)
    engine.backward(size * parameters["layer.weight"].sum())
    assert math.isfinite(engine.step(0.1)) == (size < 1e19)
    assert (engine.state() == {}) == (size > 1e19)
    assert all(value.isfinite().all() for value in [*engine.state().values(), *parameters.values()])


def test_dropped_gradients_leave_nothing_behind():
    actual, expected = make_parameters(), make_parameters()
    engine, other = make_engine(actual), make_engine(expected)
    engine.backward(loss_of(actual))
    norm = engine.drop()
    assert engine.state() == {} and all(parameter.grad is None for parameter in actual.values())
    for each, parameters in ((engine, actual), (other, expected)):
        each.backward(loss_of(parameters))
        assert each.step(0.1) == norm
    assert all(torch.equal(actual[name], expected[name]) for name in actual)


def test_weights_and_shards_are_the_parameters():
    parameters = make_parameters()
    engine = make_engine(parameters)
    assert dict(engine.weights()) == parameters
    assert all(a is b for a, b in zip(engine.shards(), parameters.values(), strict=True))


def test_a_saved_state_continues_bit_for_bit(tmp_path):
    parameters = make_parameters()
    engine = make_engine(parameters)
    engine.backward(loss_of(parameters))
    engine.step(0.1)
    state = engine.state()
    assert state.keys() >= {"layer.weight/step", "layer.weight/exp_avg", "layer.norm/exp_avg_sq"}
    copies = {name: Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    other = make_engine(copies)
    save_file(state, tmp_path / "state")
    other.load_state(SavedState([tmp_path / "state"]))
    for each, its in ((engine, parameters), (other, copies)):
        each.backward(loss_of(its))
        each.step(0.1)
    assert all(torch.equal(parameters[name], copies[name]) for name in parameters)
    assert all(torch.equal(value, other.state()[key]) for key, value in engine.state().items())


SCRIPT = """
import torch
from advgame.trainer.base import collectives
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.engines.single import SingleEngine
from advgame.trainer.settings.schema import OptimizerConfig

collectives.start()
one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
engine = SingleEngine([("one", one), ("other", other)], OptimizerConfig())
if collectives.rank() == 0:
    engine.backward(3 * one.sum())
else:
    engine.backward(one.sum() + 2 * other.sum())
assert abs(engine.step(0.1) - (2 * 4**2 + 2 * 2**2) ** 0.5) < 1e-4
collectives.stop()
leave(0)
"""


def test_gradients_are_summed_over_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
