"""Packs through a model of a known type: its attention is replaced, everything else is the model's own."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from advgame.kernels import PrefixTree, linear_logprobs, shared_prefix_attention
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.loss import Objective
from advgame.trainer.models.families import MODEL_TYPES, check_layers
from advgame.trainer.models.head import Head, with_head
from advgame.trainer.models.policy import Policy
from advgame.trainer.packs import Group, Pack, pack

T = TypeVar("T")

ATTENTION = "advgame_shared_prefix"


class Player(nn.Module):
    """A policy with its loss, as one module: outside its forward pass no weight is used.

    Its parameters are the policy's own. For an adapter these are fewer than the model's, which other players share.
    """

    def __init__(self, policy: Policy, objective: Objective, hooked: bool = False):
        """hooked: if the engine sees gradients through autograd's hooks alone, embeddings are left to it as well."""
        super().__init__()
        self.model = policy.model
        self.policy, self.objective, self.hooked = policy, objective, hooked

    @property
    def device(self) -> torch.device:
        return self.model.device

    def forward(self, pack: Pack, use: Callable[[Tensor, Head], T]) -> T:
        """What `use` makes of the states that predict response tokens and of the LM head: a loss, or log-probs.

        Open `packed_attention`, and `recomputing` if memory is short, around this and the backward pass together:
        what the backward pass computes again must be computed in the same way.
        """
        with self.policy.ready():
            return forward(self.policy, pack, use, None if self.hooked else embed(self.model, pack))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The policy's own, by their names in the model; the arguments are nn.Module's and change nothing.

        An engine that hooks the model has a say in what is frozen of it as well, and no other player uses it.
        """
        yield from self.model.named_parameters() if self.hooked else self.policy.named_parameters().items()


def forward(policy: Policy, pack: Pack, use: Callable[[Tensor, Head], T], embeddings: Tensor | None = None) -> T:
    """As Player.forward; embeddings are as in `response_hidden`."""
    return with_head(policy.model, response_hidden(policy, pack, embeddings), use)


def response_hidden(policy: Policy, pack: Pack, embeddings: Tensor | None = None) -> Tensor:
    """[R, H] hidden states that predict the response tokens: no others reach the LM head. Inside `packed_attention`.

    They are of the dtype of the policy's products. The policy must be ready.

    embeddings: [T, H], of `embed`; None leaves them, and their gradient, to the model and autograd.
    """
    model, dtype = policy.model, policy.products
    if embeddings is None:
        embeddings = model.get_input_embeddings()(pack.input_ids).float()  # and with them what layers add to
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        states = model.base_model(
            inputs_embeds=embeddings[None],
            position_ids=pack.position_ids[None],
            use_cache=False,
            layout=pack.layout,
        ).last_hidden_state[0]
    return states[pack.predictors].to(dtype)


def embed(model: PreTrainedModel, pack: Pack) -> Tensor:
    """[T, H] embeddings of the pack's tokens, whose gradient the backward pass adds to that of the embedding matrix.

    It adds the rows of the pack's tokens, in place; autograd would make a whole matrix of them for each pack.
    """
    layer = model.get_input_embeddings()
    embeddings = layer.weight.detach()[pack.input_ids]
    if layer.weight.requires_grad:

        def add_rows(gradient: Tensor) -> None:
            if layer.weight.grad is None:
                layer.weight.grad = torch.zeros_like(layer.weight)
            if layer.padding_idx is not None:  # that row has no gradient
                gradient = gradient.masked_fill(pack.input_ids[:, None] == layer.padding_idx, 0.0)
            layer.weight.grad.index_add_(0, pack.input_ids, gradient)

        embeddings.requires_grad_().register_hook(add_rows)
    return embeddings


@torch.no_grad()
def reference_logps(policy: Policy, packs: Sequence[Pack]) -> list[Tensor]:
    """[R] log-probs of the response tokens, of each pack."""
    run = policy.root or partial(forward, policy)
    with policy.ready(), packed_attention(policy.model):
        return [run(pack, partial(logprobs, pack=pack)) for pack in packs]


def logprobs(hidden: Tensor, head: Head, pack: Pack) -> Tensor:
    """[R] log-probs of the pack's response tokens."""
    return linear_logprobs(hidden, targets=pack.targets, **head)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` attends within packs. A backward pass that recomputes activations must be inside too."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def check_packable(policy: Policy, source: str, model_types: Collection[str] = MODEL_TYPES) -> None:
    """Raises ConfigError as check_layers, or if the model computes something else in packs."""
    model = policy.model
    check_layers(model.config, source, model_types)
    difference = _difference(policy)
    if not difference < (1e-3 if policy.products == model.dtype == torch.float32 else 5e-2):
        raise ConfigError(
            f"model {source}: {type(model).__name__} computes something else in a pack than on separate sequences "
            f"(hidden states differ by {difference:.2g}); it cannot be trained in packs"
        )


@torch.no_grad()
def _difference(policy: Policy) -> float:
    """Relative difference of hidden states in a pack from those on separate sequences."""
    model = policy.model
    vocab = model.config.get_text_config().vocab_size
    ids = [token % vocab for token in range(5, 60)]
    groups = [  # two of the three prompts begin alike
        Group(ids[:25], [ids[25:30], ids[30:37]]),
        Group(ids[:20] + ids[37:40], [ids[40:44]]),
        Group(ids[40:45], [ids[45:52], ids[52:54]]),
    ]
    with packed_attention(model):
        actual = response_hidden(policy, pack(groups, model.device))
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
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: PrefixTree,
    **_: object,
) -> tuple[Tensor, None]:
    """As transformers calls it: query, key, value [1, heads, T, D]; returns [1, T, heads, D].

    Under autocast, rotary embeddings may leave queries and keys in float32 beside values in bfloat16.
    """
    query, key, value = (t[0].transpose(0, 1).to(value.dtype) for t in (query, key, value))
    return shared_prefix_attention(query, key, value, layout, scale=scaling)[None], None


AttentionInterface.register(ATTENTION, _attend)
