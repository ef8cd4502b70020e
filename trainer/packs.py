"""Groups of token ids -> packs of at most a budget of tokens, without padding.

Nothing is in a pack twice: it holds a prompt once, however many completions that has, and what several prompts begin
with (a chat template's opening, an instruction) once for all of them. kernels/attention.py keeps apart what continues
it. Positions are those of the sequences. A completion's last token predicts nothing, so it is a target only.
"""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise, takewhile

import torch
from torch import Tensor

from advgame.kernels import PrefixTree, prefix_tree

SHORTEST_PREFIX = 16
"""Tokens. To share fewer does not pay: each shared prefix is one more piece of attention."""


class GroupTooLarge(ValueError):
    """A group is larger than a pack; the message names it."""


@dataclass(frozen=True)
class Group:
    """One prompt and its completions, as token ids; none of them is empty."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """Number of tokens that pass through the model."""
        return len(self.prompt) + sum(len(completion) - 1 for completion in self.completions)


@dataclass(frozen=True)
class Family:
    """Groups whose prompts begin alike."""

    shared: int
    """Number of tokens that all their prompts begin with, and that a pack holds once; 0 for a single group."""
    members: list[int]
    """Indices of the groups."""


@dataclass(frozen=True)
class Pack:
    """T tokens that are forwarded at once; R of them are response tokens, in S sequences, group by group."""

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


def families(prompts: list[list[int]], share_prefixes: bool = True) -> list[Family]:
    """The families that save the most tokens, of all that are stretches of the prompts' alphabetical order.

    What prompts i to j have in common is the least that neighbours among them have in common, and the best families of
    the first n prompts come from the best ones of fewer.

    share_prefixes: if False, every prompt is a family of its own.
    """
    if not share_prefixes:
        return [Family(0, [i]) for i in range(len(prompts))]
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    common = [_common_prefix(prompts[i], prompts[j]) for i, j in pairwise(order)]
    best = [(0, 0, 0)]  # for the first n prompts: tokens saved; where their last family begins, and what it shares
    for end, last in enumerate(order):
        candidates = [(best[end][0], end, 0)]
        shared = len(prompts[last]) - 1  # a prompt keeps a token of its own, which its completions continue
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


def plan_packs(groups: list[Group], budget: int, share_prefixes: bool = True) -> list[list[int]]:
    """Which groups share a pack.

    The largest family comes first, and in it the longest group; each goes into the pack that grows least by it, of
    those that have room, and into the fullest of several such packs.

    Args:
        budget: tokens of a pack.
        share_prefixes: as in `families`.

    Returns: the packs, as rising indices of groups. Raises GroupTooLarge if a group is larger than the budget.
    """
    check_fit(groups, budget)
    family_of: dict[int, Family] = {}
    order: list[tuple[int, list[int]]] = []
    for family in families([group.prompt for group in groups], share_prefixes):
        members = sorted(family.members, key=lambda i: -groups[i].tokens)
        order.append((sum(groups[i].tokens for i in members), members))
        family_of |= dict.fromkeys(members, family)
    packs: list[list[int]] = []
    room: list[int] = []

    def added(group: int, pack: int) -> int:
        """Number of tokens that the pack grows by."""
        family = family_of[group]
        held = any(family_of[other] is family for other in packs[pack])
        return groups[group].tokens - (family.shared if held else 0)

    for group in chain.from_iterable(members for _, members in sorted(order, reverse=True)):
        fitting = [pack for pack in range(len(packs)) if room[pack] >= added(group, pack)]
        if not fitting:
            fitting = [len(packs)]
            packs.append([])
            room.append(budget)
        best = min(fitting, key=lambda pack: (added(group, pack), room[pack]))
        room[best] -= added(group, best)
        packs[best].append(group)
    return [sorted(pack) for pack in packs]


def check_fit(groups: list[Group], budget: int) -> None:
    """Raises GroupTooLarge if a group is larger than the budget."""
    for number, group in enumerate(groups):
        if group.tokens > budget:
            raise GroupTooLarge(
                f"group {number} has {group.tokens} tokens, but a pack's budget is {budget}: "
                f"raise the budget to {group.tokens} or more"
            )


@dataclass(frozen=True, eq=False)
class _Segment:
    ids: list[int]
    position: int
    """Of its first token."""
    parent: "_Segment | None"


def pack(groups: list[Group], device: torch.device, share_prefixes: bool = True) -> Pack:
    """The groups, put together on `device`: what prompts share, then prompts, then completions.

    share_prefixes: as in `families`.
    """
    segments, prompts, completions = _segments(groups, share_prefixes)
    lengths = [len(segment.ids) for segment in segments]
    begins = dict(zip(segments, accumulate(lengths, initial=0), strict=False))
    places = {segment: place for place, segment in enumerate(segments)}
    parents = [None if segment.parent is None else places[segment.parent] for segment in segments]
    predictors: list[int] = []
    targets: list[int] = []
    ends = [0]
    for group, prompt, continuations in zip(groups, prompts, completions, strict=True):
        last_of_prompt = begins[prompt] + len(prompt.ids) - 1
        for ids, segment in zip(group.completions, continuations, strict=True):
            begin = begins[segment]
            predictors += [last_of_prompt, *range(begin, begin + len(ids) - 1)]
            targets += ids
            ends.append(len(targets))
    as_tensor = partial(torch.tensor, dtype=torch.int64, device=device)
    return Pack(
        input_ids=as_tensor([token for segment in segments for token in segment.ids]),
        position_ids=as_tensor([segment.position + i for segment in segments for i in range(len(segment.ids))]),
        layout=prefix_tree(lengths, parents, device),
        predictors=as_tensor(predictors),
        targets=as_tensor(targets),
        cu_seqlens=torch.tensor(ends, dtype=torch.int32, device=device),
    )


def _segments(groups: list[Group], share_prefixes: bool) -> tuple[list[_Segment], list[_Segment], list[list[_Segment]]]:
    """All segments in the order of a pack; each group's prompt; each group's completions."""
    levels: list[list[_Segment]] = [[], [], []]

    def add(depth: int, ids: list[int], position: int, parent: _Segment | None) -> _Segment:
        levels[depth].append(_Segment(ids, position, parent))
        return levels[depth][-1]

    prompts: dict[int, _Segment] = {}
    completions: dict[int, list[_Segment]] = {}
    for family in families([group.prompt for group in groups], share_prefixes):
        shared, root = family.shared, None
        if shared:
            root = add(0, groups[family.members[0]].prompt[:shared], 0, None)
        for index in family.members:
            group, depth = groups[index], 1 if shared else 0
            prompts[index] = add(depth, group.prompt[shared:], shared, root)
            completions[index] = [
                add(depth + 1, ids[:-1], len(group.prompt), prompts[index]) for ids in group.completions
            ]
    numbers = range(len(groups))
    return [*chain(*levels)], [prompts[i] for i in numbers], [completions[i] for i in numbers]


def _common_prefix(one: list[int], other: list[int]) -> int:
    """Number of tokens that both begin with."""
    return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], zip(one, other, strict=False)))
