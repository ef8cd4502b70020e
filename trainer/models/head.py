"""The LM head, as the losses of advgame.kernels take it."""

from collections.abc import Callable
from typing import TypedDict, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from advgame.kernels import linear_logprobs
from advgame.trainer.base.errors import ConfigError

T = TypeVar("T")


class Head(TypedDict):
    """Keyword arguments of the losses."""

    weight: Tensor
    bias: Tensor | None
    logit_softcap: float | None


def head(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Head:
    """The model's LM head, in `dtype` if one is given."""
    linear = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    weight, bias = (t if t is None or dtype is None else t.to(dtype) for t in (linear.weight, linear.bias))
    return {"weight": weight, "bias": bias, "logit_softcap": softcap}


def with_head(model: PreTrainedModel, hidden: Tensor, use: Callable[[Tensor, Head], T]) -> T:
    """What `use` makes of hidden states and the model's LM head, inside the head's own forward pass.

    Where weights are sharded, it is there that the head's are whole.
    """
    layer = model.get_output_embeddings()
    layer.forward = lambda states: use(states, head(model, states.dtype))
    try:
        return layer(hidden)
    finally:
        del layer.forward


@torch.no_grad()
def check_head(model: PreTrainedModel, source: str) -> None:
    """The losses apply the head to the last hidden state. Raises ConfigError if the model does more than that.

    Also raised for weights that give no finite log-probs.
    """
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits = model(input_ids=ids).logits[0, :-1].float()
    expected = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    if not expected.isfinite().all():
        raise ConfigError(f"model {source}: its log-probs are not finite, so its weights are broken; use another")
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, :-1]
    actual = linear_logprobs(hidden, targets=ids[0, 1:], **head(model))
    if not torch.allclose(actual, expected, rtol=1e-3, atol=0.2 if model.dtype != torch.float32 else 1e-3):
        raise ConfigError(
            f"model {source}: {type(model).__name__} changes its logits behind the LM head in a way that is not "
            f"supported (log-probs differ by {(actual - expected).abs().max():.3g})"
        )
