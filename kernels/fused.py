"""The host side of the fused losses: chunks of tokens, one reused buffer, and no [tokens, vocabulary] tensor.

A chunk's logits are made once. From them come its tokens' log-probs, from those the loss's slope by each log-prob,
and from that the chunk's part of the gradients, before the buffer is used for the next chunk. A backend is two
primitives, head_forward and head_backward; here they are those of csrc/.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_TOKENS = 448
"""Tokens whose logits are held at a time: more make the GEMMs faster and the buffer larger."""
LANE = 32
"""The buffer's rows are padded to a multiple of this many tokens: whole vectors (kLane in csrc/head.h)."""
GROUP_TOKENS = 128
"""Tokens that share their set of active columns: see csrc/head_backward.cpp."""
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


@dataclass(frozen=True)
class Gradients:
    """Where gradients are added up, in float32; None where one is not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zeros(hidden: Tensor, head: Head, want_hidden: bool, want_weight: bool, want_bias: bool) -> "Gradients":
        def zeros(like: Tensor | None, wanted: bool) -> Tensor | None:
            return torch.ops.advgame.pooled(like.shape, True) if wanted else None

        return Gradients(zeros(hidden, want_hidden), zeros(head.weight, want_weight), zeros(head.bias, want_bias))

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


def group_into_chunks(boundaries: list[int]) -> list[tuple[int, int]]:
    """Neighbouring units (a pair, a sequence) put together into chunks of at most CHUNK_TOKENS tokens.

    `boundaries` are where the units begin, and the end. Returns (first, last + 1) indices of units; a unit that is
    longer than a chunk stands alone.
    """
    chunks, first = [], 0
    for unit in range(1, len(boundaries)):
        if boundaries[unit] - boundaries[first] > CHUNK_TOKENS and unit - 1 > first:
            chunks.append((first, unit - 1))
            first = unit - 1
    if len(boundaries) > 1:
        chunks.append((first, len(boundaries) - 1))
    return chunks


class Workspace:
    """The reused buffer, and the two primitives on slices of the tokens."""

    def __init__(self, hidden: Tensor, head: Head, targets: Tensor, filter_eps: float, with_entropy: bool):
        self.hidden, self.head, self.targets = hidden, head, targets
        self.filter_eps, self.with_entropy = filter_eps, with_entropy
        self.probs = None

    def forward(self, begin: int, end: int, keep: bool) -> tuple[Tensor, ...]:
        """Statistics of tokens [begin, end): (logps, lse, entropy, tile_max, mass); `keep` leaves their probabilities
        in the buffer for `backward`."""
        if keep and self.probs is None:
            rows = -(-min(self.hidden.size(0), CHUNK_TOKENS) // LANE) * LANE
            self.probs = torch.ops.advgame.pooled([rows * self.head.weight.size(0)], False)
        return torch.ops.advgame.head_forward(
            self.hidden[begin:end],
            self.head.weight,
            self.head.bias,
            self.targets[begin:end],
            self.head.logit_softcap,
            self.head.temperature,
            self.with_entropy,
            self.filter_eps == 0,
            self.probs if keep else None,
        )

    def backward(self, begin: int, end: int, coef: Tensor, stats: tuple[Tensor, ...], gradients: Gradients) -> float:
        """Adds the gradients of tokens [begin, end), whose `stats` were just kept, for dloss/dlogp = coef [n]."""
        logps, lse, _, tile_max, mass = stats
        slope = torch.ones_like(logps)
        if self.head.logit_softcap:
            slope = 1 - ((logps + lse) * self.head.temperature / self.head.logit_softcap).square()
        return torch.ops.advgame.head_backward(
            self.hidden[begin:end],
            self.head.weight,
            self.targets[begin:end],
            coef,
            logps,
            lse,
            slope,
            mass,
            tile_max,
            self.probs,
            self.head.temperature,
            self.filter_eps,
            GROUP_TOKENS,
            None if gradients.hidden is None else gradients.hidden[begin:end],
            gradients.weight,
            gradients.bias,
        )


def release_buffers() -> None:
    """Gives the large buffers that are kept from call to call back to the system; the next call makes new ones."""
    torch.ops.advgame.empty_pool()


def run_chunks(
    workspace: Workspace,
    chunks: list[tuple[int, int]],
    coefficients: Callable[[int, int, Tensor], Tensor],
    gradients: Gradients,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of all tokens, and their gradients added up.

    Args:
        chunks: (begin, end) token ranges, each with all that its coefficients depend on.
        coefficients: (begin, end, logps [n]) -> dloss/dlogp [n].

    A chunk that is longer than the buffer is gone through twice: for its log-probs, then for its gradients.
    """
    tokens = workspace.hidden.size(0)
    logps = torch.empty(tokens, device=workspace.hidden.device)
    entropies = torch.empty(tokens if workspace.with_entropy else 0, device=workspace.hidden.device)
    keep = gradients.wanted()
    for begin, end in chunks:
        parts = list(pieces(begin, end, CHUNK_TOKENS))
        for first, last in parts:
            stats = workspace.forward(first, last, keep and len(parts) == 1)
            logps[first:last] = stats[0]
            if workspace.with_entropy:
                entropies[first:last] = stats[2]
        coef = coefficients(begin, end, logps[begin:end])
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
    first three inputs, from place `first` on; its last three inputs say which of those are wanted."""

    def setup_context(ctx, inputs, output) -> None:
        ctx.wanted, ctx.rest = inputs[-3:], [None] * (len(inputs) - 3)
        ctx.save_for_backward(*output[first:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else zeros would be made for every output, gradients included

    def backward(ctx, grad_loss, *_):
        # A loss that is differentiated by itself needs no scaling, and so no second gradient of the weight's size.
        real = type(grad_loss) is Tensor and grad_loss.device.type == "cpu"  # not one that is being traced
        unscaled = real and grad_loss.item() == 1
        gradients = [
            (gradient if unscaled else gradient * grad_loss.to(gradient)) if wanted else None
            for gradient, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
        ]
        return *gradients, *ctx.rest

    op.register_autograd(backward, setup_context=setup_context)
