"""A policy: a model, or an adapter over one, that can be trained and sampled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from advgame.trainer.models.precision import dtype_of_products
from advgame.trainer.settings.schema import Precision


@dataclass(frozen=True)
class Policy:
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    """The LoRA adapter that turns a shared model into this policy; None if the whole model is its own."""
    products: torch.dtype = field(
        default_factory=lambda: torch.bfloat16 if torch.cuda.is_available() else torch.float32
    )
    """The dtype of matrix products when packs are forwarded; weights, sums and norms are float32."""

    def multiplying_in(self, precision: Precision) -> "Policy":
        return replace(self, products=self.dtype_of(precision))

    def dtype_of(self, precision: Precision) -> torch.dtype:
        """Of matrix products with this model, here."""
        hidden_size = self.model.config.get_text_config().hidden_size
        return dtype_of_products(precision, hidden_size, self.model.device.type == "cuda")

    @property
    def root(self) -> nn.Module | None:
        """What the model must be run through, where its weights are sharded: a Player. None: the model will do."""
        return None

    def activate(self) -> None:
        """Call before the model is used: another policy may have used it last."""
        if self.adapter:
            self.model.set_adapter(self.adapter)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the model computes with the policy's weights. Where they are sharded, all processes take part."""
        self.activate()
        yield

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's own, by name, whole, one after another. Where they are sharded, all processes take part."""
        yield from self.named_parameters().items()

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """A frozen parameter of the model. Where it is sharded, all processes take part."""
        return parameter

    def gathered(self) -> dict[str, Tensor] | None:
        """The policy's own, whole, in the host's memory of the first process; None if they are in the model.

        Where they are sharded, all processes take part.
        """
        return None

    def shards(self) -> list[Tensor]:
        """What this process holds of them."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The policy's own parameters: the model's, or the adapter's."""
        own = f".{self.adapter}." if self.adapter else ""
        return {name: parameter for name, parameter in self.model.named_parameters() if own in name}

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a response: the tokenizer's and the generation config's."""
        declared = self.model.generation_config.eos_token_id
        declared = declared if isinstance(declared, list) else [declared]
        ids = [self.tokenizer.eos_token_id, *declared]
        return sorted({token for token in ids if token is not None})


@dataclass(frozen=True)
class PlayerPolicies:
    """A player's policy and the moving averages of it."""

    policy: Policy
    ema: Policy
    """Samples, and is the reference unless there is a slower one. The policy itself where there is no average."""
    slow: Policy | None = None
    """A slower average, which is then the reference."""

    @property
    def reference(self) -> Policy:
        return self.slow or self.ema

    @property
    def by_suffix(self) -> dict[str, Policy]:
        """All of them, by what a checkpoint adds to the player's name."""
        averages = {"_ema": self.ema} if self.ema is not self.policy else {}
        return {"": self.policy} | averages | ({"_reference": self.slow} if self.slow else {})
