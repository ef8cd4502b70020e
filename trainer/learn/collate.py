"""Items -> batches, each of them one pack of at most a budget of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.trainer.base import collectives
from advgame.trainer.packs import Group, Pack, check_fit, pack, plan_packs
from advgame.trainer.records import Item, ScoredGroup


@dataclass(frozen=True)
class Batch:
    """A pack of items, ready to be forwarded, and what their loss needs."""

    pack: Pack
    samples: tuple[int, ...]
    """Number of completions of each item."""
    sampled_logps: Tensor
    """[R], log-probs of the response tokens when they were sampled."""
    advantages: Tensor
    """[S], of the completions; empty for pairs."""
    valid: Tensor
    """[S] bool, False for completions without a reward; empty for pairs."""
    share: float
    """The batch's part of the step's mean loss."""
    counts: bool = True
    """False for a batch that only keeps this process in step with the others: its share is 0."""
    recomputed_logps: Tensor | None = None
    """[R], log-probs of the response tokens under the reference; None if the sampler's own serve as such."""

    @property
    def reference_logps(self) -> Tensor:
        """[R]"""
        return self.sampled_logps if self.recomputed_logps is None else self.recomputed_logps


def collate(
    items: Sequence[Item],
    count: Callable[[Sequence[Item]], float],
    budget: int,
    device: torch.device,
    share_prefixes: bool = True,
) -> list[Batch]:
    """This process's share of the items, in batches; all processes get the same number of batches.

    Forward passes of sharded weights are collectives, so a process with fewer packs forwards the smallest item again,
    with no weight.

    Args:
        items: those of all processes, at least one.
        count: the objective's: number of pairs, samples or tokens the loss averages over.
        budget: tokens of a pack.
        share_prefixes: if False, a pack repeats what several prompts begin with.

    Raises GroupTooLarge.
    """
    groups = [group_of(item) for item in items]
    check_fit(groups, budget)  # all of them: no process may be left waiting for another
    share, whole = collectives.my_share(list(items)), count(items)
    plan = plan_packs(collectives.my_share(groups), budget, share_prefixes)
    batches = []
    for indices in plan:
        part = [share[i] for i in indices]
        batches.append(make_batch(part, count(part) / whole, device, share_prefixes))
    missing = collectives.largest(len(plan)) - len(plan)
    if missing:
        smallest = min(items, key=lambda item: group_of(item).tokens)
        batches += [make_batch([smallest], 0.0, device, counts=False)] * missing
    return batches


def make_batch(
    items: Sequence[Item], share: float, device: torch.device, share_prefixes: bool = True, counts: bool = True
) -> Batch:
    """The items as one batch; for `share` and `counts` see Batch."""
    groups = [item for item in items if isinstance(item, ScoredGroup)]
    logps = [logp for item in items for rollout in item.rollouts for logp in rollout.logprobs]
    advantages = [advantage for group in groups for advantage in group.advantages]
    valid = [valid for group in groups for valid in group.valid]
    return Batch(
        pack=pack([group_of(item) for item in items], device, share_prefixes),
        samples=tuple(len(item.rollouts) for item in items),
        sampled_logps=torch.tensor(logps, device=device),
        advantages=torch.tensor(advantages, device=device),
        valid=torch.tensor(valid, dtype=torch.bool, device=device),
        share=share,
        counts=counts,
    )


def group_of(item: Item) -> Group:
    """The prompt and the completions of an item."""
    return Group(item.rollouts[0].prompt_ids, [rollout.token_ids for rollout in item.rollouts])
