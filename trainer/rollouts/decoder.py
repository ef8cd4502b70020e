"""A model of the sampler's own: a copy of a policy's weights, in the dtype it samples in, run on a key-value cache.

Its modules are those of transformers. Its linear layers multiply by packed weights, and its attention reads a cache in
which sequences share what they begin with.
"""

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from advgame.kernels import PrefixTree, shared_prefix_attention
from advgame.kernels.decoding import cache_tokens, cached_attention, empty_cache
from advgame.kernels.packed import PackedWeight, pack_weight, packed_linear
from advgame.trainer.models.head import head
from advgame.trainer.models.layers import fuse_layers

ATTENTION = "advgame_cached"


@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers; see kernels/decoding.py."""

    keys: Tensor
    """[layers, Hkv, blocks, D, 16]"""
    values: Tensor
    """[layers, Hkv, blocks, 16, D]"""


@dataclass(frozen=True)
class Tokens:
    """T tokens that pass through the model at once, and whose keys and values are put into the cache."""

    ids: Tensor
    """[T] int64"""
    positions: Tensor
    """[T] int64"""
    places: Tensor
    """[T] int64, in the cache."""
    sees: PrefixTree | Tensor
    """The pack that they form, which nothing comes before; or [T, P, 2] int32, the pieces of the cache for each."""


class Decoder:
    """A copy of `model` without its adapters. Each of its weights must be set before it is run."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype):
        self.model, self.dtype, self.device = _empty_copy(model), dtype, model.device
        self._softcap = head(model)["logit_softcap"]
        self._places = _replace_weights(self.model)

    @torch.no_grad()
    def set(self, name: str, weight: Tensor) -> None:
        """Copies a weight, named as in the model; if others are tied to it, these too."""
        weight = weight.to(self.dtype)
        for module, leaf in self._places[name]:
            if isinstance(module, _Linear):
                module.set(leaf, weight)
            else:
                module._parameters[leaf] = nn.Parameter(weight.clone(), requires_grad=False)

    def new_cache(self, blocks: int) -> Cache:
        config = self.model.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = config.num_hidden_layers, blocks, config.num_key_value_heads, width
        return Cache(*empty_cache(*shape, self.dtype, self.device))

    @torch.no_grad()
    def forward(self, tokens: Tokens, cache: Cache) -> Tensor:
        """[T, H] hidden states."""
        return self.model.base_model(
            input_ids=tokens.ids[None], position_ids=tokens.positions[None], use_cache=False, tokens=tokens, cache=cache
        ).last_hidden_state[0]

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """[T, V] float32, of hidden [T, H]."""
        layer = self.model.get_output_embeddings()
        logits = packed_linear(hidden, layer.weight, layer.bias, whole=True)
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)


def _empty_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules, with buffers and without weights, adapters or the attention of others."""
    with torch.device("meta"):
        copied = type(model)(copy.deepcopy(model.config))
    fuse_layers(copied)
    copied.eval().requires_grad_(False).set_attn_implementation(ATTENTION)
    for name, _ in list(copied.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        copied.get_submodule(parent)._buffers[leaf] = model.get_buffer(name).clone()
    return copied


def _replace_weights(model: PreTrainedModel) -> dict[str, list[tuple[nn.Module, str]]]:
    """Takes all weights out, and puts a `_Linear` in the place of each linear layer.

    Returns, for each weight by its name, the modules that it belongs to and what they call it; tied ones have several.
    """
    names = {id(weight): name for name, weight in reversed(list(model.named_parameters()))}
    places: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
    for path, weight in list(model.named_parameters(remove_duplicate=False)):
        parent, _, leaf = path.rpartition(".")
        module = model.get_submodule(parent)
        if isinstance(module, nn.Linear):
            module = _Linear()
            model.set_submodule(parent, module)
        elif not isinstance(module, _Linear):
            module._parameters[leaf] = None
        places[names[id(weight)]].append((module, leaf))
    return dict(places)


class _Linear(nn.Module):
    """A linear layer for few rows at a time."""

    weight: PackedWeight

    def __init__(self) -> None:
        super().__init__()
        self.bias: Tensor | None = None

    def set(self, leaf: str, tensor: Tensor) -> None:
        if leaf == "weight":
            self.weight = pack_weight(tensor)
        else:
            self.bias = tensor.float()

    def forward(self, x: Tensor) -> Tensor:
        return packed_linear(x, self.weight, self.bias)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    tokens: Tokens,
    cache: Cache,
    **_: object,
) -> tuple[Tensor, None]:
    """As transformers calls it: query, key, value [1, heads, T, D]; returns [1, T, heads, D]."""
    query, key, value = (t[0].transpose(0, 1) for t in (query, key, value))
    layer = cast(int, module.layer_idx)
    keys, values = cache.keys[layer], cache.values[layer]
    cache_tokens(keys, values, key, value, tokens.places)
    if isinstance(tokens.sees, Tensor):
        return cached_attention(query, keys, values, tokens.sees, scale=scaling)[None], None
    return shared_prefix_attention(query, key, value, tokens.sees, scale=scaling)[None], None


AttentionInterface.register(ATTENTION, _attend)
