"""Groups of one prompt and its completions -> packs of at most a budget of tokens, without padding.

A prompt stands in its pack once, however many completions it has; attention.py keeps the completions apart. Positions
go on from the prompt's end in each of them. A completion's last token predicts nothing, so it is a target only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.kernels.attention import SharedPrompts, shared_prompts


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
class Pack:
    """T tokens that are forwarded together: all prompts, then all completions; R response tokens in S sequences."""

    input_ids: Tensor
    """[T] int64"""
    position_ids: Tensor
    """[T] int64"""
    layout: SharedPrompts
    predictors: Tensor
    """[R] int64, the token whose hidden state predicts each response token."""
    targets: Tensor
    """[R] int64, the response tokens."""
    cu_seqlens: Tensor
    """[S + 1] int32, where each response begins among the R."""


def plan_packs(tokens: list[int], budget: int) -> list[list[int]]:
    """Which groups share a pack: longest first, each into the fullest pack that has room for it.

    Args:
        tokens: of each group. budget: tokens of a pack.

    Returns: the packs, as rising indices of groups. Raises ValueError, naming a group that is larger than the budget.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for group in sorted(range(len(tokens)), key=lambda group: -tokens[group]):
        if tokens[group] > budget:
            raise ValueError(
                f"group {group} has {tokens[group]} tokens, but a pack's budget is {budget}: "
                f"raise the budget to {tokens[group]} or more"
            )
        fitting = [pack for pack in range(len(packs)) if room[pack] >= tokens[group]]
        if not fitting:
            fitting = [len(packs)]
            packs.append([])
            room.append(budget)
        best = min(fitting, key=lambda pack: room[pack])
        packs[best].append(group)
        room[best] -= tokens[group]
    return [sorted(pack) for pack in packs]


def pack(groups: list[Group], device: torch.device) -> Pack:
    """The groups, put together on `device`."""
    layout = shared_prompts(
        [len(group.prompt) for group in groups],
        [[len(completion) - 1 for completion in group.completions] for group in groups],
        device,
    )
    prompt_ids, prompt_positions, ids, positions = [], [], [], []
    predictors, targets, lengths = [], [], []
    first = layout.prompts.host[-1]
    for group in groups:
        prompt_ids += group.prompt
        prompt_positions += range(len(group.prompt))
        last_of_prompt = len(prompt_ids) - 1
        for completion in group.completions:
            begin = first + len(ids)
            predictors += [last_of_prompt, *range(begin, begin + len(completion) - 1)]
            ids += completion[:-1]
            positions += range(len(group.prompt), len(group.prompt) + len(completion) - 1)
            targets += completion
            lengths.append(len(completion))
    tensors = (prompt_ids + ids, prompt_positions + positions, predictors, targets)
    input_ids, position_ids, *rest = (torch.tensor(values, dtype=torch.int64, device=device) for values in tensors)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    return Pack(input_ids, position_ids, layout, *rest, cu_seqlens)
