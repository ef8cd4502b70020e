"""The model families that the trainer knows: their layers are all plain attention, which it replaces by its own."""

from collections.abc import Collection

from transformers import PretrainedConfig

from advgame.trainer.base.errors import ConfigError

MODEL_TYPES = ("granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
"""Types of models whose layers are all plain attention and pass the layout on. Others would be silently wrong."""


def check_layers(
    config: PretrainedConfig,
    source: str,
    model_types: Collection[str] = MODEL_TYPES,
    what: str = "trained in packs",
) -> None:
    """Raises ConfigError if it is no configuration of a known family; needs no weights.

    source: what the settings call the model, for errors. what: what the model cannot be, for errors.
    """
    config = config.get_text_config()
    if config.model_type not in model_types:
        raise ConfigError(f"model {source}: a {config.model_type} cannot be {what}; {', '.join(model_types)} can")
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else f"a window of {window} tokens"]
    other = sorted(set(kinds) - {"full_attention"})
    if other:
        raise ConfigError(f"model {source}: layers with {', '.join(other)} cannot be {what}; use another model")
