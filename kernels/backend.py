"""What the fused losses ask of a backend, and the records that pass between the two."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Head:
    """The LM head, which turns hidden states into logits."""

    weight: Tensor
    """[V, H], or this rank's rows of it."""
    bias: Tensor | None
    """[V], or this rank's part of it."""
    logit_softcap: float
    """0 where there is none."""
    temperature: float
    group: str | None = None
    """Name of the process group over whose ranks the rows are spread; None: all of them are here."""
    before: int = 0
    """Rows of lower ranks."""
    after: int = 0
    """Rows of higher ranks."""

    @property
    def vocab(self) -> int:
        """Rows of all ranks."""
        return self.before + self.weight.size(0) + self.after


class Statistics(NamedTuple):
    """Of the distributions of n tokens, all float32."""

    logps: Tensor
    """[n] log-prob of the target."""
    target_logit: Tensor
    """[n] logit of the target, soft-capped and divided by the temperature."""
    lse: Tensor
    """[n] log-sum-exp of the logits."""
    entropy: Tensor
    """[n], or empty if it was not asked for."""
    tile_max: Tensor
    """[tiles, n padded] largest logit of each tile of the vocabulary: the scale of the probabilities in the buffer."""
    mass: Tensor
    """[n] sum over the weight's rows of probability times the soft-cap's slope; empty where it is 1, as it is without a
    soft-cap and with all rows."""


@dataclass(frozen=True)
class Gradients:
    """The tensors that gradients are added to; None for a gradient that is not wanted."""

    hidden: Tensor | None
    """[T, H] of hidden's dtype. For head_backward [n, H] float32, the rows of a chunk."""
    weight: Tensor | None
    """[V, H] float32, or bfloat16 together with weight_rest."""
    weight_rest: Tensor | None
    """[V, H] int8, eight more bits of a bfloat16 `weight`: together they are as good as a float32 sum."""
    bias: Tensor | None
    """[V] float32."""


class Backend(Protocol):
    """A module of this package that computes the LM head on chunks of tokens; registry.BACKENDS names it."""

    CHUNK_TOKENS: int
    """Default number of tokens whose probabilities are held at a time."""

    def probs_buffer(self, tokens: int, weight: Tensor) -> Tensor:
        """An uninitialised buffer for the probabilities of up to `tokens` tokens."""

    def weight_sums(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Zeros for Gradients.weight and Gradients.weight_rest."""

    def head_forward(
        self, hidden: Tensor, head: Head, targets: Tensor, with_entropy: bool, exact: bool, probs: Tensor | None
    ) -> Statistics:
        """Statistics of hidden's n tokens.

        Args:
            hidden: [n, H]. targets: [n] int64.
            exact: float32 products at full precision.
            probs: what probs_buffer returned, to keep the probabilities in for head_backward; or None.
        """

    def head_backward(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        coef: Tensor,
        slope: Tensor,
        stats: Statistics,
        probs: Tensor,
        filter_eps: float,
        gradients: Gradients,
    ) -> None:
        """Adds to `gradients` those of the n tokens that head_forward has just been given.

        Args:
            hidden, head, targets, stats, probs: as in that call.
            coef: [n] float32, the derivative of the loss with respect to each log-prob.
            slope: [n] float32, the soft-cap's slope at the target's logit; 0 leaves the target's own term out.
            filter_eps: relative error allowed in the gradient with respect to the logits; 0 keeps all columns.
        """

    def scale(self, gradient: Tensor, factor: Tensor) -> None:
        """Multiplies a gradient by a scalar tensor, in place."""
