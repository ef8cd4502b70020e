"""Groups of one prompt and its completions -> packs of at most a budget of tokens, without padding.

Nothing stands in a pack twice: a prompt is there once, however many completions it has, and what several prompts begin
with (a chat template's opening, an instruction) once for all of them. kernels/attention.py keeps apart what goes on
from it. Positions are those of the sequences. A completion's last token predicts nothing, so it is a target only.
"""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise, takewhile

import torch
from torch import Tensor

from advgame.kernels import PrefixTree, prefix_tree

SHORTEST_PREFIX = 16
"""Tokens: one piece more of attention costs more than it saves where prompts share fewer."""


@dataclass(frozen=True)
class Group:
    """One prompt and its completions, as token ids; none of them empty."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """That pass through the model."""
        return len(self.prompt) + sum(len(completion) - 1 for completion in self.completions)


@dataclass(frozen=True)
class Family:
    """Groups whose prompts begin alike."""

    shared: int
    """Tokens that all prompts begin with and that stand in a pack once; 0 for a group by itself."""
    members: list[int]
    """Indices of groups."""


@dataclass(frozen=True)
class Pack:
    """T tokens that are forwarded together; R response tokens in S sequences, group by group."""

    input_ids: Tensor
    """[T] int64"""
    position_ids: Tensor
    """[T] int64"""
    layout: PrefixTree
    predictors: Tensor
    """[R] int64, the token whose hidden state predicts each response token."""
    targets: Tensor
    """[R] int64, the response tokens."""
    cu_seqlens: Tensor
    """[S + 1] int32, where each response begins among the R."""


def families(prompts: list[list[int]]) -> list[Family]:
    """Families that save the most tokens, of those that are stretches of the prompts' alphabetical order.

    What prompts i to j have in common is the least that neighbours among them have, and the best families up to a
    prompt come from the best ones up to an earlier one.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    common = [_common_prefix(prompts[i], prompts[j]) for i, j in pairwise(order)]
    best = [(0, 0, 0)]  # of the first n prompts: tokens saved; where their last family begins, and what it shares
    for end, last in enumerate(order):
        candidates = [(best[end][0], end, 0)]
        shared = len(prompts[last]) - 1  # a prompt keeps a token of its own, for its completions to go on from
        for begin in range(end - 1, -1, -1):
            shared = min(shared, common[begin], len(prompts[order[begin]]) - 1)
            if shared < SHORTEST_PREFIX:
                break
            candidates.append((best[begin][0] + shared * (end - begin), begin, shared))
        best.append(max(candidates))
    found, end = [], len(order)
    while end:
        _, begin, shared = best[end]
        found.append(Family(shared, order[begin:end]))
        end = begin
    return found[::-1]


def plan_packs(groups: list[Group], budget: int) -> list[list[int]]:
    """Which groups share a pack: largest family first and its longest group first, each into the pack that grows least
    by it, of those that have room; into the fullest where that is the same.

    Args:
        budget: tokens of a pack.

    Returns: the packs, as rising indices of groups. Raises ValueError, naming a group that is larger than the budget.
    """
    family_of, order = {}, []
    for family in families([group.prompt for group in groups]):
        members = sorted(family.members, key=lambda i: -groups[i].tokens)
        order.append((sum(groups[i].tokens for i in members), members))
        family_of |= dict.fromkeys(members, family)
    packs: list[list[int]] = []
    room: list[int] = []

    def added(group: int, pack: int) -> int:
        """Tokens that a pack grows by."""
        family = family_of[group]
        held = any(family_of[other] is family for other in packs[pack])
        return groups[group].tokens - (family.shared if held else 0)

    for group in chain.from_iterable(members for _, members in sorted(order, reverse=True)):
        tokens = groups[group].tokens
        if tokens > budget:
            raise ValueError(
                f"group {group} has {tokens} tokens, but a pack's budget is {budget}: "
                f"raise the budget to {tokens} or more"
            )
        fitting = [pack for pack in range(len(packs)) if room[pack] >= added(group, pack)]
        if not fitting:
            fitting = [len(packs)]
            packs.append([])
            room.append(budget)
        best = min(fitting, key=lambda pack: (added(group, pack), room[pack]))
        room[best] -= added(group, best)
        packs[best].append(group)
    return [sorted(pack) for pack in packs]


@dataclass(frozen=True, eq=False)
class _Segment:
    ids: list[int]
    position: int
    """Of its first token."""
    parent: "_Segment | None"


def pack(groups: list[Group], device: torch.device) -> Pack:
    """The groups, put together on `device`: what prompts share, then prompts, then completions."""
    levels: list[list[_Segment]] = [[], [], []]

    def add(depth: int, ids: list[int], position: int, parent: _Segment | None) -> _Segment:
        levels[depth].append(_Segment(ids, position, parent))
        return levels[depth][-1]

    prompts: dict[int, _Segment] = {}
    completions: dict[int, list[_Segment]] = {}
    for family in families([group.prompt for group in groups]):
        shared, root = family.shared, None
        if shared:
            root = add(0, groups[family.members[0]].prompt[:shared], 0, None)
        for index in family.members:
            group, depth = groups[index], 1 if shared else 0
            prompts[index] = add(depth, group.prompt[shared:], shared, root)
            completions[index] = [
                add(depth + 1, ids[:-1], len(group.prompt), prompts[index]) for ids in group.completions
            ]
    segments = [segment for level in levels for segment in level]
    lengths = [len(segment.ids) for segment in segments]
    begins = dict(zip(segments, accumulate(lengths, initial=0), strict=False))
    places = {segment: place for place, segment in enumerate(segments)}
    layout = prefix_tree(lengths, [places.get(segment.parent) for segment in segments], device)

    predictors, targets, ends = [], [], [0]
    for index, group in enumerate(groups):
        last_of_prompt = begins[prompts[index]] + len(prompts[index].ids) - 1
        for ids, segment in zip(group.completions, completions[index], strict=True):
            begin = begins[segment]
            predictors += [last_of_prompt, *range(begin, begin + len(ids) - 1)]
            targets += ids
            ends.append(len(targets))
    input_ids = [token for segment in segments for token in segment.ids]
    positions = [segment.position + i for segment in segments for i in range(len(segment.ids))]
    as_tensor = partial(torch.tensor, dtype=torch.int64, device=device)
    return Pack(
        *map(as_tensor, (input_ids, positions)),
        layout,
        *map(as_tensor, (predictors, targets)),
        torch.tensor(ends, dtype=torch.int32, device=device),
    )


def _common_prefix(one: list[int], other: list[int]) -> int:
    """Tokens that both begin with."""
    return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], zip(one, other, strict=False)))
