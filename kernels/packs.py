"""Packs of sequences that share prefixes: an instruction, a prompt, a conversation so far.

A pack is a forest of segments of tokens. Each segment continues its parent, so a shared prefix is stored once. Segments
are sorted by depth, and those of one depth by parent: the descendants of a segment, at any one depth, are neighbours.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.arguments import require


@dataclass(frozen=True)
class Bounds:
    """The boundaries of N neighbouring pieces, counted from the beginning of the first."""

    host: list[int]
    """[N + 1], rising from 0."""
    device: Tensor
    """The same, int32, on the pack's device."""
    longest: int
    """Tokens of the longest piece."""


@dataclass(frozen=True)
class Descent:
    """The N segments of one depth, as keys, and all their descendants of another depth, as queries."""

    queries: Bounds
    """[N + 1], the descendants of each of the N."""
    keys: Bounds
    """[N + 1], the N themselves."""
    query_tokens: slice
    """Of the pack."""
    key_tokens: slice
    """Of the pack."""


@dataclass(frozen=True)
class PrefixTree:
    """The layout of a pack."""

    segments: Bounds
    """All segments, in the pack's order."""
    parents: list[int]
    """The segment that each one continues, -1 if it begins a sequence."""
    descents: list[Descent]
    """One for each pair of depths, unless the lower one has no tokens."""


def prefix_tree(lengths: list[int], parents: list[int | None], device: torch.device) -> PrefixTree:
    """The layout of a pack.

    Args:
        lengths: tokens of each segment; at least one if the segment has children.
        parents: the segment that each one continues, None if it begins a sequence. Segments are sorted by depth, and
            those of one depth by parent.
        device: the device of the pack.

    Raises:
        ValueError: a negative length, segments in another order, or a parent without tokens; the message names the
            argument.
    """
    require(all(length >= 0 for length in lengths), f"lengths: expected numbers >= 0, got {min(lengths, default=0)}")
    require(sum(lengths) < 2**31, f"lengths: {sum(lengths)} tokens in all are more than a pack can address, 2**31 - 1")
    depths = _depths(lengths, parents)
    segments = _bounds(lengths, device)
    levels = [range(bisect_left(depths, d), bisect_right(depths, d)) for d in range(max(depths, default=0) + 1)]
    above = [-1 if parent is None else parent for parent in parents]
    descents: list[Descent] = []
    for low, queries in enumerate(levels):
        query_tokens = slice(segments.host[queries.start], segments.host[queries.stop])
        if query_tokens.start == query_tokens.stop:
            continue  # completions of a single token, which predicts nothing
        ancestors = list(queries)
        for keys in reversed(levels[:low]):
            ancestors = [above[segment] for segment in ancestors]
            tokens = dict.fromkeys(keys, 0)
            for segment, ancestor in zip(queries, ancestors, strict=True):
                tokens[ancestor] += lengths[segment]
            key_tokens = slice(segments.host[keys.start], segments.host[keys.stop])
            of_queries, of_keys = list(tokens.values()), [lengths[segment] for segment in keys]
            descents.append(Descent(_bounds(of_queries, device), _bounds(of_keys, device), query_tokens, key_tokens))
    return PrefixTree(segments, above, descents)


def _depths(lengths: list[int], parents: list[int | None]) -> list[int]:
    """The depth of each segment, after a check of their order."""
    given = len(parents)
    require(given == len(lengths), f"parents: expected one for each of the {len(lengths)} segments, got {given}")
    depths: list[int] = []
    for segment, parent in enumerate(parents):
        known = parent is None or 0 <= parent < segment
        require(known, f"parents: segment {segment} continues segment {parent}, which does not come before it")
        require(parent is None or lengths[parent] > 0, f"lengths: segment {parent} has children, but no tokens")
        depths.append(0 if parent is None else depths[parent] + 1)
    order = [(depth, -1 if parent is None else parent) for depth, parent in zip(depths, parents, strict=True)]
    require(order == sorted(order), f"parents: segments must be sorted by depth, then by parent, got {parents}")
    return depths


def _bounds(lengths: list[int], device: torch.device) -> Bounds:
    host = [0]
    for length in lengths:
        host.append(host[-1] + length)
    return Bounds(host, torch.tensor(host, dtype=torch.int32, device=device), max(lengths, default=0))
