"""The shape of a model: what its memory and its work depend on. Nothing is loaded."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.paths import is_file, to_path
from advgame.trainer.models.adapters import base_of
from advgame.trainer.models.built import BUILT
from advgame.trainer.models.families import check_layers
from advgame.trainer.models.load import read_architecture
from advgame.trainer.models.sources import ADAPTER, TAUGHT


@dataclass(frozen=True)
class Shape:
    """Of a causal language model. Counts are of numbers, not bytes."""

    layers: int
    hidden: int
    intermediate: int
    vocab: int
    heads: int
    kv_heads: int
    width: int
    """Of a head."""
    parameters: int
    """All of the model's; tied ones once."""
    tied: bool
    """The LM head is the embedding."""
    matrices: int
    """Weights of the body's linear layers, which each token is multiplied by; neither embedding nor LM head."""
    linears: int
    """Number of these layers."""
    edges: int
    """Inputs and outputs of these layers, summed: an adapter has `rank` numbers for each."""

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.vocab * self.hidden

    @property
    def layer(self) -> int:
        """Weights of a layer's matrices."""
        return self.matrices // self.layers

    @property
    def attended(self) -> int:
        """Numbers a token in queries, keys, values and what attention makes of them."""
        return (2 * self.heads + 2 * self.kv_heads) * self.width

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers but the LM head (arXiv 2106.09685)."""
        return rank * self.edges


def shape_of(config: PretrainedConfig) -> Shape:
    """Counted on the model itself, on torch's meta device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    config = model.config.get_text_config()
    linear = [module for module in model.base_model.modules() if isinstance(module, nn.Linear)]
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        matrices=sum(module.weight.numel() for module in linear),
        linears=len(linear),
        edges=sum(sum(module.weight.shape) for module in linear),
    )


def read_shape(source: str, setting: str) -> Shape:
    """Of a folder with a config.json, a shipped model, or a published model that is known by its name.

    A folder that is not there is known by how its name begins: models/Qwen2.5-7B-Instruct is a Qwen2.5-7B.
    setting: the name of the setting, for errors. Raises ConfigError that names it.
    """
    try:
        config = _architecture(source)
        check_layers(config, source)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error
    return shape_of(config)


def _architecture(source: str) -> PretrainedConfig:
    path = to_path(source)
    if source in TAUGHT:
        return _architecture(base_of(TAUGHT[source]))
    known = [name for name in KNOWN if Path(source).name.lower().startswith(name.lower())]
    if source in BUILT or is_file(path / "config.json") or is_file(path / ADAPTER) or path.suffix == ".gguf":
        return read_architecture(source)
    if known:
        return AutoConfig.for_model(**KNOWN[max(known, key=len)])
    raise ConfigError(
        f"model {source}: neither a folder with a config.json or an adapter nor a known name ({', '.join(KNOWN)}); "
        f"correct the path, or put the model's config.json there: its weights are not needed"
    )


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: bool) -> dict:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
    } | more  # fmt: skip


KNOWN: dict[str, dict] = {
    "Qwen2.5-7B": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "Llama-3.1-8B": _llama(4096, 14336, 32, 32, 8, 128256),
    "Meta-Llama-3.1-8B": _llama(4096, 14336, 32, 32, 8, 128256),
    "SmolLM2-135M": _llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
    "llama-7b": _llama(4096, 11008, 32, 32, 32, 32000),
    "llama-13b": _llama(5120, 13824, 40, 40, 40, 32000),
    "llama-34b": _llama(8192, 22016, 48, 64, 8, 32000),
    "llama-70b": _llama(8192, 28672, 80, 64, 8, 32000),
}  # fmt: skip
"""Published models by how their names begin, as their config.json says: Qwen2.5 (arXiv 2412.15115), Llama 3.1 (arXiv
2407.21783), SmolLM2 (arXiv 2502.02737), Llama 2 (arXiv 2307.09288) and, of 34B, Code Llama (arXiv 2308.12950)."""
