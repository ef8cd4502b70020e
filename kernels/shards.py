"""A head whose rows are spread over the ranks of a process group, as under tensor parallelism.

Each rank's kernels see its own rows, and find a token's log-sum-exp over these alone. A few numbers a token and rank
put the distributions together (Shoeybi et al. 2019, arXiv 1909.08053, section 3). The rest follows: given the
log-sum-exp of all rows, the gradient coef (slope onehot - p) with respect to a rank's own logits needs nothing of the
others. Where the target is another rank's there is no onehot: the slope counts as 0.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from advgame.kernels.arguments import require
from advgame.kernels.backend import Head, Statistics

if TYPE_CHECKING:  # a PyTorch built without it has no ProcessGroup
    from torch.distributed import ProcessGroup


def check_group(group: "ProcessGroup") -> None:
    """A group that this process belongs to: to others, PyTorch gives a number in its place."""
    member = isinstance(group, dist.ProcessGroup)
    require(member, f"group: expected a ProcessGroup that this process belongs to, got {group!r}")


def spread_head(head: Head, group: "ProcessGroup", same: dict[str, object], refusal: str | None) -> Head:
    """The head as a part of one, whose rows lie in the order of the ranks.

    Args:
        same: by name, what must be equal on all ranks.
        refusal: what is wrong with this rank's own arguments.

    Raises:
        ValueError: a rank refuses, or something differs. All ranks raise the same, and none waits for another.
    """
    own = refusal, {name: str(value) for name, value in same.items()}
    rows = 0 if refusal else len(head.weight)
    facts = torch.tensor([rows, crc32(repr(own).encode())], device=head.weight.device)
    all_rows, checksums = gather(facts, group.group_name).T.tolist()
    if len(set(checksums)) > 1:
        _tell_apart(own, group)
    require(refusal is None, str(refusal))
    before, after = all_rows[: group.rank()], all_rows[group.rank() + 1 :]
    return replace(head, group=group.group_name, before=sum(before), after=sum(after))


def _tell_apart(own: tuple[str | None, dict[str, str]], group: "ProcessGroup") -> None:
    """Raises an error that says what differs between the ranks."""
    ranks = [own] * group.size()
    dist.all_gather_object(ranks, own, group)
    for rank, (refusal, _) in enumerate(ranks):
        require(refusal is None, f"{refusal} (on rank {rank} of the group)")
    for name in own[1]:
        values = [same[name] for _, same in ranks]
        require(len(set(values)) == 1, f"{name}: must be the same on all ranks of the group, got {', '.join(values)}")


def own_targets(targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """([T] which of this rank's rows is the target, or any row; [T] whether one is)."""
    rows, last = targets - head.before, len(head.weight) - 1
    return rows.clamp(0, last), (rows >= 0) & (rows <= last)


def gather(tensor: Tensor, group: str) -> Tensor:
    """[ranks, *shape], the tensors of all ranks."""
    members = _members(group)
    gathered = tensor.new_empty(members.size(), *tensor.shape)
    dist.all_gather(list(gathered), tensor.contiguous(), members)
    return gathered


def sum_over(tensor: Tensor, group: str) -> None:
    """Sums a contiguous tensor over the ranks, in place."""
    dist.all_reduce(tensor, group=_members(group))


def join(own: Statistics, here: Tensor, group: str) -> Statistics:
    """Statistics of the distributions over all rows, from those over this rank's and the others'.

    tile_max and mass stay this rank's share of the whole.

    Args:
        here: [n], whether a token's target is among this rank's rows.
    """
    found = [own.lse, torch.where(here, own.target_logit, 0), *([own.entropy] if own.entropy.numel() else [])]
    lses, target_logits, *entropies = gather(torch.stack(found), group).unbind(1)
    lse, target_logit, entropy = lses.logsumexp(0), target_logits.sum(0), own.entropy
    for of_rank in entropies:  # H = sum over ranks of share (H_rank - log share)
        log_share = lses - lse
        share = log_share.exp()
        entropy = torch.where(share == 0, 0, share * (of_rank - log_share)).sum(0)
    share = (own.lse - lse).exp()
    mass = torch.where(share == 0, 0, share * own.mass) if own.mass.numel() else share
    return Statistics(target_logit - lse, target_logit, lse, entropy, own.tile_max, mass)


class SumGradient(torch.autograd.Function):
    """The identity, whose gradient is summed over the ranks of a group."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: str) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        sum_over(gradient, ctx.group)
        return gradient, None


class LogSumExp(torch.autograd.Function):
    """A log-sum-exp [T] that is known, as a function of the logits [T, n] that are this rank's part of it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, lse: Tensor) -> Tensor:
        ctx.save_for_backward(logits, lse)
        return lse.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, lse = ctx.saved_tensors
        return gradient[:, None] * (logits - lse[:, None]).exp(), None


def _members(group: str) -> "ProcessGroup":
    """An operator's arguments are plain values: it knows a group by its name."""
    from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

    return _resolve_process_group(group)  # type: ignore[arg-type]  # a NewType of str
