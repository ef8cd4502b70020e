"""Packs through any model of a known family: its attention is replaced, all else is the model's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from advgame.kernels import shared_prefix_attention
from advgame.trainer.config import ConfigError
from advgame.trainer.packing import Group, Pack, pack

ATTENTION = "advgame_shared_prefix"
FAMILIES = ("granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
"""`model_type`s whose layers are all plain attention and hand the layout on. Others would be silently wrong."""


def response_hidden(model: PreTrainedModel, pack: Pack, embeddings: Tensor | None = None) -> Tensor:
    """[R, H] hidden states that predict the response tokens: no others reach the LM head. Inside `packed_attention`.

    `embeddings` are those of `embed`, where gradients are wanted. On CUDA in bfloat16, by autocast.
    """
    tokens = {"input_ids": pack.input_ids[None]} if embeddings is None else {"inputs_embeds": embeddings[None]}
    with torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda"):
        states = model.base_model(
            **tokens, position_ids=pack.position_ids[None], use_cache=False, layout=pack.layout
        ).last_hidden_state[0]
    return states[pack.predictors]


def embed(model: PreTrainedModel, pack: Pack) -> Tensor:
    """[T, H] embeddings of the pack's tokens, cut off from their matrix: see `add_embedding_gradient`."""
    weight = model.get_input_embeddings().weight
    return weight.detach()[pack.input_ids].requires_grad_(weight.requires_grad)


def add_embedding_gradient(model: PreTrainedModel, pack: Pack, embeddings: Tensor) -> None:
    """Adds to the matrix's gradient what the embeddings have: some rows, where autograd would make a matrix a pack."""
    layer = model.get_input_embeddings()
    if embeddings.grad is None:
        return
    if layer.weight.grad is None:
        layer.weight.grad = torch.zeros_like(layer.weight)
    if layer.padding_idx is not None:  # that row has no gradient
        embeddings.grad[pack.input_ids == layer.padding_idx] = 0
    layer.weight.grad.index_add_(0, pack.input_ids, embeddings.grad)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, `model` attends within packs. Backward passes that recompute activations belong inside."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def check_family(model: PreTrainedModel, source: str) -> None:
    """Raises ConfigError for a model that cannot be packed, or whose packs differ from separate sequences."""
    config = model.config.get_text_config()
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"model {source}: a {config.model_type} cannot be trained in packs; {', '.join(FAMILIES)} can"
        )
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else f"a window of {window} tokens"]
    other = sorted(set(kinds) - {"full_attention"})
    if other:
        raise ConfigError(
            f"model {source}: layers with {', '.join(other)} cannot be trained in packs; use another model"
        )
    difference = _difference(model)
    if not difference < (1e-3 if model.device.type == "cpu" and model.dtype == torch.float32 else 5e-2):
        raise ConfigError(
            f"model {source}: {type(model).__name__} computes something else in a pack than on separate sequences "
            f"(hidden states differ by {difference:.2g}); it cannot be trained in packs"
        )


@torch.no_grad()
def _difference(model: PreTrainedModel) -> float:
    """Relative difference of hidden states in a pack and on separate sequences; two of three prompts begin alike."""
    vocab = model.config.get_text_config().vocab_size
    ids = [token % vocab for token in range(5, 60)]
    groups = [
        Group(ids[:25], [ids[25:30], ids[30:37]]),
        Group(ids[:20] + ids[37:40], [ids[40:44]]),
        Group(ids[40:45], [ids[45:52], ids[52:54]]),
    ]
    with packed_attention(model):
        actual = response_hidden(model, pack(groups, model.device))
    expected = torch.cat(
        [
            model.base_model(torch.tensor([group.prompt + completion], device=model.device)).last_hidden_state[
                0, len(group.prompt) - 1 : -1
            ]
            for group in groups
            for completion in group.completions
        ]
    )
    return ((actual - expected).norm() / expected.norm()).item()


def _attend(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, *, layout, **_
) -> tuple[Tensor, None]:
    """As transformers calls it: query, key, value [1, heads, T, D]; returns [1, T, heads, D]."""
    heads_last = (t[0].transpose(0, 1) for t in (query, key, value))
    return shared_prefix_attention(*heads_last, layout, scale=scaling)[None], None


AttentionInterface.register(ATTENTION, _attend)
