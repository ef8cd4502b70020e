"""A model's norms and gated activations, computed in one pass each (advgame.kernels.layers)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from advgame.kernels.layers import rms_norm, silu_gate
from advgame.trainer.models.families import MODEL_TYPES


class RMSNorm(nn.Module):
    """A norm that a linear layer follows. Under autocast its output is of the type that the layer would make of it."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, states: Tensor) -> Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        return rms_norm(states, self.weight, self.eps, dtype)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, mlp: Any):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, states: Tensor) -> Tensor:
        return self.down(self.gate_proj(states), self.up_proj(states))

    def down(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.down_proj(silu_gate(gate, up))


def fuse_layers(model: PreTrainedModel) -> None:
    """Puts these in the place of the model's own, with the same weights under the same names.

    Models of other families than those that the trainer knows stay as they are; so do norms whose output is added to
    the residuals, and other activations.
    """
    config = model.config.get_text_config()
    if config.model_type not in MODEL_TYPES:
        return
    gated = config.hidden_act == "silu"
    for layer in model.base_model.layers:
        if hasattr(layer, "input_layernorm"):  # else norms come after the products
            for name in ("input_layernorm", "post_attention_layernorm"):
                setattr(layer, name, RMSNorm(getattr(layer, name)))
        if gated and hasattr(layer.mlp, "gate_proj"):
            layer.mlp = GatedMLP(layer.mlp)
