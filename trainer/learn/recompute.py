"""What a backward pass computes again, instead of keeping it since the forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from advgame.trainer.models.layers import GatedMLP

Recompute = Literal["none", "cheap", "layers"]
"""none: all activations are kept. cheap: what takes no matrix product (norms, gated activations) is computed again:
about a third less memory, about 2% more time. layers: only the inputs of layers are kept, and the backward pass begins
with another forward pass."""

_recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # there is no dropout


@contextmanager
def recomputing(model: PreTrainedModel, what: Recompute) -> Iterator[None]:
    """Inside, forward passes of `model` keep less; the gradients are the same, bit for bit."""
    layers = model.base_model.layers
    modules = {
        "none": [],
        "cheap": [module for layer in layers for module in layer.modules()],
        "layers": layers,
    }[what]
    changed = {module: forward for module in modules if (forward := _forward(module, what == "layers"))}
    for module, forward in changed.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _forward(module: nn.Module, whole: bool) -> Callable[..., Tensor] | None:
    """A forward that keeps less than the module's own, or None."""
    if "forward" in vars(module):  # Liger's, which keeps little anyway
        return None
    if whole or type(module).__name__.endswith("RMSNorm"):
        return partial(_recomputed, module.forward)
    if not isinstance(module, GatedMLP):
        return None
    down = module.down_proj
    trained = isinstance(down, nn.Linear) and down.weight.requires_grad  # an adapter would have its base multiply again
    return partial(_gated, module) if trained else None


def _gated(mlp: GatedMLP, states: Tensor) -> Tensor:
    """An MLP's output. Recomputation stops before the last product, whose input is the last thing that is kept."""
    return _recomputed(mlp.down, mlp.gate_proj(states), mlp.up_proj(states))
