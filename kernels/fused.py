"""The host side of the fused losses: chunks of tokens, one reused buffer, and no [tokens, vocabulary] tensor.

A chunk's logits are made once. From them come its tokens' log-probs, from those the loss's slope by each log-prob,
and from that the chunk's part of the gradients, before the buffer is used for the next chunk. A backend is a module,
cpu.py or triton/, with what differs: CHUNK_TOKENS, weight_sums, probs_buffer, head_forward, head_backward and scale.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from advgame.kernels.extension import BUILT

AUTO_FILTER_EPS = 1.2e-3
"""filter_eps="auto": gradients to about 5e-3 (hidden) and 2e-3 (weight) of their norm, below bfloat16's rounding."""


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits."""

    weight: Tensor
    bias: Tensor | None
    logit_softcap: float
    """0 where there is none."""
    temperature: float


class Statistics(NamedTuple):
    """Of n tokens' distributions, all float32."""

    logps: Tensor
    """[n] log-prob of the target."""
    lse: Tensor
    """[n] log-sum-exp of the logits."""
    entropy: Tensor
    """[n], or empty where it was not asked for."""
    tile_max: Tensor
    """[tiles, n padded] largest logit of each tile of the vocabulary: the scale of what is in the buffer."""
    mass: Tensor
    """[n] sum over the vocabulary of probability times the soft-cap's slope; empty without one, where it is 1."""


@dataclass(frozen=True)
class Gradients:
    """Where gradients are added up; None where one is not wanted."""

    hidden: Tensor | None
    """[T, H] of hidden's dtype: a token's gradient is made at once. In head_backward [n, H] float32, a chunk's."""
    weight: Tensor | None
    """[V, H] float32, or bfloat16 with the rest beside it."""
    weight_rest: Tensor | None
    """[V, H] int8: eight more bits of a bfloat16 `weight`, which is then as good as a float32 sum."""
    bias: Tensor | None
    """[V] float32."""

    @staticmethod
    def zeros(
        backend: str, hidden: Tensor, head: Head, want_hidden: bool, want_weight: bool, want_bias: bool
    ) -> "Gradients":
        weight, rest = primitives(backend).weight_sums(head.weight) if want_weight else (None, None)
        return Gradients(
            hidden=hidden.new_zeros(hidden.shape) if want_hidden else None,
            weight=weight,
            weight_rest=rest,
            bias=head.bias.new_zeros(head.bias.shape, dtype=torch.float32) if want_bias else None,
        )

    @staticmethod
    def empty(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, want_hidden: bool, want_weight: bool, want_bias: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `cast` returns, by shape and dtype alone: for tracing."""
        wanted = ((hidden, want_hidden), (weight, want_weight), (bias, want_bias))
        return tuple(
            like.new_empty(like.shape) if like is not None and want else hidden.new_empty(0) for like, want in wanted
        )

    def wanted(self) -> bool:
        return any(gradient is not None for gradient in (self.hidden, self.weight, self.bias))

    def cast(self, hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients in the dtypes of what they are gradients of; an empty tensor for each that is not wanted."""
        pairs = ((self.hidden, hidden), (self.weight, head.weight), (self.bias, head.bias))
        return tuple(hidden.new_empty(0) if grad is None else grad.to(like.dtype) for grad, like in pairs)


def wanted_gradients(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[bool]:
    """Which of the three are to get a gradient: not what is frozen, and none under no_grad."""
    return [t is not None and t.requires_grad and torch.is_grad_enabled() for t in (hidden, weight, bias)]


def pieces(begin: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    """[begin, end) in equal parts of at most `limit` tokens."""
    parts = max(1, -(-(end - begin) // limit))
    for part in range(parts):
        yield begin + (end - begin) * part // parts, begin + (end - begin) * (part + 1) // parts


def primitives(backend: str) -> ModuleType:
    """The module of a backend: "cpu" or "triton"."""
    return import_module(f"advgame.kernels.{backend}")


def group_into_chunks(boundaries: list[int], limit: int) -> list[tuple[int, int]]:
    """Neighbouring units (a pair, a sequence) put together into chunks of at most `limit` tokens.

    `boundaries` are where the units begin, and the end. Returns (first, last + 1) indices of units; a unit that is
    longer than a chunk stands alone.
    """
    chunks, first = [], 0
    for unit in range(1, len(boundaries)):
        if boundaries[unit] - boundaries[first] > limit and unit - 1 > first:
            chunks.append((first, unit - 1))
            first = unit - 1
    if len(boundaries) > 1:
        chunks.append((first, len(boundaries) - 1))
    return chunks


class Workspace:
    """The reused buffer, and the two primitives on slices of the tokens."""

    def __init__(
        self, backend: str, hidden: Tensor, head: Head, targets: Tensor, filter_eps: float, with_entropy: bool
    ):
        self.primitives = primitives(backend)
        self.hidden, self.head, self.targets = hidden, head, targets
        self.filter_eps, self.with_entropy = filter_eps, with_entropy
        self.probs = None

    def forward(self, begin: int, end: int, keep: bool) -> Statistics:
        """Statistics of tokens [begin, end); `keep` leaves their probabilities in the buffer for `backward`."""
        if keep and self.probs is None:
            tokens = min(self.hidden.size(0), self.primitives.CHUNK_TOKENS)
            self.probs = self.primitives.probs_buffer(tokens, self.head.weight)
        return self.primitives.head_forward(
            self.hidden[begin:end],
            self.head,
            self.targets[begin:end],
            self.with_entropy,
            self.filter_eps == 0,
            self.probs if keep else None,
        )

    def backward(self, begin: int, end: int, coef: Tensor, stats: Statistics, gradients: Gradients) -> None:
        """Adds the gradients of tokens [begin, end), whose `stats` were just kept, for dloss/dlogp = coef [n]."""
        slope = torch.ones_like(stats.logps)
        if self.head.logit_softcap:
            logits = stats.logps + stats.lse
            slope = 1 - (logits * self.head.temperature / self.head.logit_softcap).square()
        rows = None if gradients.hidden is None else gradients.hidden[begin:end]
        in_float32 = rows
        if rows is not None and rows.dtype != torch.float32:
            in_float32 = rows.new_zeros(rows.shape, dtype=torch.float32)
        self.primitives.head_backward(
            self.hidden[begin:end],
            self.head,
            self.targets[begin:end],
            coef,
            slope,
            stats,
            self.probs,
            self.filter_eps,
            replace(gradients, hidden=in_float32),
        )
        if in_float32 is not rows:
            rows.copy_(in_float32)


def release_buffers() -> None:
    """Gives the large buffers that the CPU backend keeps from call to call back to the system."""
    if BUILT:
        torch.ops.advgame.empty_pool()


def run_chunks(
    workspace: Workspace,
    chunks: list[tuple[int, int]],
    coefficients: Callable[[int, Tensor], Tensor],
    gradients: Gradients,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of all tokens, and their gradients added up.

    Args:
        chunks: (begin, end) token ranges, each with all that its coefficients depend on.
        coefficients: (index of the chunk, its logps [n]) -> dloss/dlogp [n].

    A chunk that is longer than the buffer is gone through twice: for its log-probs, then for its gradients.
    """
    tokens = workspace.hidden.size(0)
    logps = torch.empty(tokens, device=workspace.hidden.device)
    entropies = torch.empty(tokens if workspace.with_entropy else 0, device=workspace.hidden.device)
    keep = gradients.wanted()
    for index, (begin, end) in enumerate(chunks):
        parts = list(pieces(begin, end, workspace.primitives.CHUNK_TOKENS))
        for first, last in parts:
            stats = workspace.forward(first, last, keep and len(parts) == 1)
            logps[first:last] = stats.logps
            if workspace.with_entropy:
                entropies[first:last] = stats.entropy
        coef = coefficients(index, logps[begin:end])
        if keep:
            for first, last in parts:
                if len(parts) > 1:
                    stats = workspace.forward(first, last, keep=True)
                workspace.backward(first, last, coef[first - begin : last - begin], stats, gradients)
    return logps, entropies


def resolve_filter_eps(filter_eps: float | str) -> float:
    """The number that stands behind filter_eps. Raises ValueError."""
    if filter_eps == "auto":
        return AUTO_FILTER_EPS
    if isinstance(filter_eps, str) or not 0 <= filter_eps < 1:
        raise ValueError(f"filter_eps: expected 'auto' or a number in [0, 1), got {filter_eps!r}")
    return float(filter_eps)


def register_gradients(op, first: int) -> None:
    """Autograd for an op that returns its loss at place 0 and the loss's gradients by (hidden, weight, bias), its
    first three inputs, from place `first` on; its last six inputs are the backend, two options, and which of those
    are wanted.

    The gradients are handed out once, scaled where they stand: another one of the weight's size would cost more than
    all that the loss needs. Whoever goes backwards again has them made again.
    """

    def setup_context(ctx, inputs, output) -> None:
        ctx.gradients = output[first:]
        ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else zeros would be made for every output, gradients included

    def backward(ctx, grad_loss, *_):
        *_, backend, _, _, want_hidden, want_weight, want_bias = ctx.others
        traced = type(grad_loss) is not Tensor
        gradients = ctx.gradients
        if not traced:
            ctx.gradients = None
        if gradients is None:
            inputs = [o if t is None else t for t, o in zip(ctx.saved_tensors, ctx.others, strict=True)]
            with torch.no_grad():
                gradients = op(*inputs)[first:]
        wanted = zip(gradients, (want_hidden, want_weight, want_bias), strict=True)
        gradients = [gradient if want else None for gradient, want in wanted]
        if traced:
            gradients = [g if g is None else g * grad_loss.to(g) for g in gradients]
        else:
            for gradient in gradients:
                if gradient is not None:
                    primitives(backend).scale(gradient, grad_loss)
        return *gradients, *([None] * (len(ctx.others) - 3))

    op.register_autograd(backward, setup_context=setup_context)
