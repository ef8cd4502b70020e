"""Where prompts lie in a key-value cache: what several begin with once, then what each has of its own."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from advgame.kernels import prefix_tree
from advgame.kernels.decoding import BLOCK, blocks_of
from advgame.trainer.packs import Group, families, plan_packs
from advgame.trainer.rollouts.decoder import Tokens

PACK_TOKENS = 4096
"""Of prompts that pass through the model at once, unless a single one is longer."""

Piece = tuple[int, int]
"""First block, number of tokens."""


@dataclass(frozen=True)
class Placed:
    """Prompts that pass through the model at once."""

    members: list[int]
    """Their indices; of equal ones all."""
    tokens: Tokens
    last: Tensor
    """[members] int64, each one's last token among them."""
    pieces: list[tuple[Piece, Piece]]
    """Of each member: what it shares, which may be nothing, and its own."""
    blocks: int
    """That they take."""


def place(prompts: list[list[int]], device: torch.device) -> list[Placed]:
    """All prompts, in packs that follow each other in the cache. Equal ones are stored once."""
    equal: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        equal[tuple(prompt)].append(i)
    indices = list(equal.values())
    groups = [Group(prompts[first], []) for first, *_ in indices]
    packs: list[Placed] = []
    begin = 0
    for plan in plan_packs(groups, max([PACK_TOKENS, *map(len, prompts)])):
        packs.append(_place([groups[i].prompt for i in plan], [indices[i] for i in plan], begin, device))
        begin += packs[-1].blocks
    return packs


@dataclass(frozen=True)
class _Segment:
    ids: list[int]
    position: int
    """Of its first token."""
    parent: int | None
    """Number of the segment that it continues."""
    prompt: int | None
    """Index of the prompt that ends with it."""


def _place(prompts: list[list[int]], members: list[list[int]], begin: int, device: torch.device) -> Placed:
    """members: the indices that each prompt stands for. begin: the first free block."""
    roots: list[_Segment] = []
    rest: list[_Segment] = []
    for family in families(prompts):
        shared, parent = family.shared, len(roots)
        if shared:
            roots.append(_Segment(prompts[family.members[0]][:shared], 0, None, None))
            rest += [_Segment(prompts[i][shared:], shared, parent, i) for i in family.members]
        else:
            roots += [_Segment(prompts[i], 0, None, i) for i in family.members]
    segments = roots + rest
    lengths = [len(segment.ids) for segment in segments]
    starts = list(accumulate(map(blocks_of, lengths), initial=begin))
    ends = list(accumulate(lengths))
    pieces: dict[int, tuple[Piece, Piece]] = {}
    last: dict[int, int] = {}
    for number, segment in enumerate(segments):
        if segment.prompt is not None:
            above = (0, 0) if segment.parent is None else (starts[segment.parent], lengths[segment.parent])
            pieces[segment.prompt] = above, (starts[number], lengths[number])
            last[segment.prompt] = ends[number] - 1
    as_tensor = partial(torch.tensor, dtype=torch.int64, device=device)
    tokens = Tokens(
        ids=as_tensor([token for segment in segments for token in segment.ids]),
        positions=as_tensor([segment.position + i for segment in segments for i in range(len(segment.ids))]),
        places=as_tensor([block * BLOCK + i for block, n in zip(starts, lengths, strict=False) for i in range(n)]),
        sees=prefix_tree(lengths, [segment.parent for segment in segments], device),
    )
    of_member = [number for number, indices in enumerate(members) for _ in indices]
    return Placed(
        members=[index for indices in members for index in indices],
        tokens=tokens,
        last=as_tensor([last[number] for number in of_member]),
        pieces=[pieces[number] for number in of_member],
        blocks=starts[-1] - begin,
    )
