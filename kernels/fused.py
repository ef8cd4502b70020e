"""The fused losses on the host: chunks of tokens, one reused buffer, and no [tokens, vocabulary] tensor.

A chunk's logits are computed once. They give its tokens' log-probs, those give the derivative of the loss with respect
to each log-prob, and that gives the chunk's part of the gradients, before the next chunk overwrites the buffer.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from advgame.kernels.backend import Gradients, Head, Statistics
from advgame.kernels.extension import BUILT
from advgame.kernels.gradients import cast_gradients, zero_gradients
from advgame.kernels.operators import flatten
from advgame.kernels.options import OpOptions, Wanted
from advgame.kernels.registry import primitives
from advgame.kernels.shards import join, own_targets, sum_over


def pieces(begin: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    """[begin, end) in equal parts of at most `limit` tokens."""
    parts = max(1, -(-(end - begin) // limit))
    for part in range(parts):
        yield begin + (end - begin) * part // parts, begin + (end - begin) * (part + 1) // parts


def group_into_chunks(boundaries: list[int], limit: int) -> list[tuple[int, int]]:
    """Neighbouring units (pairs of sequences) grouped into chunks of at most `limit` tokens.

    Args:
        boundaries: where each unit begins, and the end of the last.

    Returns: (first, last + 1) unit of each chunk. A unit that is longer than `limit` is a chunk of its own.
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
    """The LM head on slices of the tokens, with the buffer that their probabilities share, and all tokens' results."""

    def __init__(self, hidden: Tensor, head: Head, targets: Tensor, options: OpOptions):
        self.primitives = primitives(options.backend)
        self.hidden, self.head, self.targets, self.options = hidden, head, targets, options
        self.here: Tensor | None = None
        if head.group is not None:
            self.targets, self.here = own_targets(targets, head)
        self.chunk_tokens = options.chunk_tokens or self.primitives.CHUNK_TOKENS
        self.probs: Tensor | None = None
        tokens = hidden.size(0)
        self.logps = torch.empty(tokens, device=hidden.device)
        self.entropies = torch.empty(tokens if options.with_entropy else 0, device=hidden.device)

    def forward(self, begin: int, end: int, keep: bool) -> Statistics:
        """Statistics of tokens [begin, end); `keep` leaves their probabilities in the buffer for `backward`."""
        if keep and self.probs is None:
            self.probs = self.primitives.probs_buffer(min(self.hidden.size(0), self.chunk_tokens), self.head.weight)
        stats = self.primitives.head_forward(
            self.hidden[begin:end],
            self.head,
            self.targets[begin:end],
            self.options.with_entropy,
            self.options.filter_eps == 0,
            self.probs if keep else None,
        )
        if self.here is None or self.head.group is None:
            return stats
        return join(stats, self.here[begin:end], self.head.group)

    def measure(self, begin: int, end: int, keep: bool) -> Statistics:
        """The same, and stores the log-probs and entropies."""
        stats = self.forward(begin, end, keep)
        self.logps[begin:end] = stats.logps
        if self.options.with_entropy:
            self.entropies[begin:end] = stats.entropy
        return stats

    def backward(self, begin: int, end: int, coef: Tensor, stats: Statistics, gradients: Gradients) -> None:
        """Adds the gradients of tokens [begin, end), whose `stats` were just kept, for dloss/dlogp = coef [n]."""
        assert self.probs is not None, "forward(keep=True) comes first"
        slope = torch.ones_like(stats.logps)
        if self.head.logit_softcap:
            slope = 1 - (stats.target_logit * (self.head.temperature / self.head.logit_softcap)).square()
        if self.here is not None:
            slope = slope * self.here[begin:end]
        rows = sums = None if gradients.hidden is None else gradients.hidden[begin:end]
        if rows is not None and rows.dtype != torch.float32:
            sums = rows.new_zeros(rows.shape, dtype=torch.float32)
        self.primitives.head_backward(
            self.hidden[begin:end],
            self.head,
            self.targets[begin:end],
            coef,
            slope,
            stats,
            self.probs,
            self.options.filter_eps,
            replace(gradients, hidden=sums),
        )
        if sums is not None and self.head.group is not None:
            sum_over(sums, self.head.group)
        if rows is not None and sums is not None and sums is not rows:
            rows.copy_(sums)


def measure_chunks(workspace: Workspace, chunks: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of all tokens, without gradients. `chunks` are (begin, end) ranges of tokens."""
    for begin, end in chunks:
        for first, last in pieces(begin, end, workspace.chunk_tokens):
            workspace.measure(first, last, keep=False)
    return workspace.logps, workspace.entropies


def differentiate_chunks(
    workspace: Workspace,
    chunks: list[tuple[int, int]],
    coefficients: Callable[[int, Tensor], Tensor],
    wanted: Wanted,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Log-probs and entropies of all tokens, and the gradients with respect to hidden, weight and bias.

    A chunk that is longer than the buffer takes two passes: one for its log-probs, one for its gradients.

    Args:
        chunks: (begin, end) ranges of tokens, each with everything that its coefficients depend on.
        coefficients: (index of a chunk, its log-probs [n]) -> derivative of the loss with respect to each, [n].
    """
    gradients = zero_gradients(workspace.options.backend, workspace.hidden, workspace.head, wanted)
    if not any(flatten(wanted)):
        return *measure_chunks(workspace, chunks), cast_gradients(gradients, workspace.hidden, workspace.head)
    for index, (begin, end) in enumerate(chunks):
        parts = list(pieces(begin, end, workspace.chunk_tokens))
        once = len(parts) == 1
        for first, last in parts:
            stats = workspace.measure(first, last, keep=once)
        coef = coefficients(index, workspace.logps[begin:end])
        for first, last in parts:
            if not once:
                stats = workspace.forward(first, last, keep=True)
            workspace.backward(first, last, coef[first - begin : last - begin], stats, gradients)
    return workspace.logps, workspace.entropies, cast_gradients(gradients, workspace.hidden, workspace.head)


def release_buffers() -> None:
    """Returns the large buffers that the CPU backend keeps between calls to the system."""
    if BUILT:
        torch.ops.advgame.empty_pool()
