"""Packs and batches: what is in them."""

import subprocess
import sys
from bisect import bisect_right
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.learn.collate import collate, group_of
from advgame.trainer.packs import SHORTEST_PREFIX, Group, GroupTooLarge, Pack, families, pack, plan_packs
from advgame.trainer.records import Pair, Rollout, ScoredGroup

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=8)
OPENINGS = st.sampled_from([[], list(range(16)), list(range(30)), [7] * 20])
PROMPTS = st.builds(list.__add__, OPENINGS, TOKENS)
GROUPS = st.lists(st.builds(Group, PROMPTS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=6)


def sequences(packed: Pack) -> list[tuple[list[int], list[int]]]:
    """(tokens, positions) of each response's sequence, its last token left out: the layout walked from its end up."""
    bounds, descents = packed.layout.segments.host, packed.layout.descents
    begins, found = packed.cu_seqlens.tolist(), []
    for first, last in pairwise(begins):
        token = packed.predictors[last - 1].item()
        places = list(range(bounds[bisect_right(bounds, token) - 1], token + 1))
        for descent in descents:
            if descent.query_tokens.start <= token < descent.query_tokens.stop:
                piece = bisect_right(descent.queries.host, token - descent.query_tokens.start) - 1
                begin, end = descent.keys.host[piece : piece + 2]
                places = [*range(descent.key_tokens.start + begin, descent.key_tokens.start + end), *places]
        found.append((packed.input_ids[places].tolist(), packed.position_ids[places].tolist()))
        assert places[-(last - first) :] == packed.predictors[first:last].tolist()
    return found


@given(GROUPS)
def test_every_response_continues_its_prompt(groups):
    packed = pack(groups, CPU)
    expected = [group.prompt + completion[:-1] for group in groups for completion in group.completions]
    assert [tokens for tokens, _ in sequences(packed)] == expected
    assert all(positions == list(range(len(tokens))) for tokens, positions in sequences(packed))
    responses = [packed.targets[begin:end].tolist() for begin, end in pairwise(packed.cu_seqlens.tolist())]
    assert responses == [completion for group in groups for completion in group.completions]


@given(GROUPS)
def test_a_pack_holds_nothing_but_its_sequences_and_no_prompt_twice(groups):
    packed = pack(groups, CPU)
    shared = sum(family.shared * (len(family.members) - 1) for family in families([g.prompt for g in groups]))
    tokens = sum(group.tokens for group in groups) - shared
    assert len(packed.input_ids) == len(packed.position_ids) == packed.layout.segments.host[-1] == tokens


@given(GROUPS)
def test_without_sharing_a_prompt_is_held_once_and_what_prompts_share_as_often_as_they_do(groups):
    packed = pack(groups, CPU, share_prefixes=False)
    expected = [group.prompt + completion[:-1] for group in groups for completion in group.completions]
    assert [tokens for tokens, _ in sequences(packed)] == expected
    assert len(packed.input_ids) == sum(group.tokens for group in groups)
    budget = max(group.tokens for group in groups)
    for indices in plan_packs(groups, budget, share_prefixes=False):
        assert sum(groups[i].tokens for i in indices) <= budget


@given(st.lists(PROMPTS, max_size=7))
def test_families_are_the_stretches_that_save_most(prompts):
    found = families(prompts)
    assert sorted(member for family in found for member in family.members) == list(range(len(prompts)))

    def saved(stretch: list[list[int]]) -> int:
        lengths = range(min(len(prompt) for prompt in stretch))
        alike = max(n for n in lengths if len({tuple(prompt[:n]) for prompt in stretch}) == 1)
        return alike * (len(stretch) - 1) if alike >= SHORTEST_PREFIX else 0

    def most(rest: list[list[int]]) -> int:
        """Of all ways to cut them."""
        return max((saved(rest[:n]) + most(rest[n:]) for n in range(1, len(rest) + 1)), default=0)

    assert sum(family.shared * (len(family.members) - 1) for family in found) == most(sorted(prompts))
    for family in found:
        assert len({tuple(prompts[i][: family.shared]) for i in family.members}) == 1
        assert all(len(prompts[i]) > family.shared for i in family.members)


@given(GROUPS, st.integers(30 + 8 + 4 * 7, 200))
def test_plans_hold_every_group_once_and_keep_to_the_budget(groups, budget):
    plan = plan_packs(groups, budget)
    assert sorted(index for indices in plan for index in indices) == list(range(len(groups)))
    together = lambda *packs: len(pack([groups[i] for indices in packs for i in indices], CPU).input_ids)  # noqa: E731
    assert all(together(indices) <= budget for indices in plan)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(50, 200))
def test_no_two_packs_could_have_been_one(tokens, budget):
    groups = [Group([i] * n, [[1]]) for i, n in enumerate(tokens)]
    plan = plan_packs(groups, budget)
    sizes = sorted(sum(groups[index].tokens for index in indices) for indices in plan)
    assert len(plan) < 2 or sizes[0] + sizes[1] > budget


def test_families_stay_together():
    """Longest first alone would pair each of the one kind with one of the other."""
    one, other = list(range(40)), list(range(50, 90))
    groups = [Group([*opening, i], [[1] * 20]) for i in range(4) for opening in (one, other)]
    assert plan_packs(groups, 120) == [[1, 3, 5, 7], [0, 2, 4, 6]]


def test_a_group_that_is_too_large_is_named():
    groups = [Group([1] * n, [[2]]) for n in (10, 51, 50)]
    with pytest.raises(
        GroupTooLarge, match=r"group 1 has 51 tokens, but a pack's budget is 50: raise the budget to 51"
    ):
        plan_packs(groups, 50)


def rollout(prompt: list[int], ids: list[int], logprob: float) -> Rollout:
    return Rollout(prompt, ids, [logprob] * len(ids), "", True)


def test_pairs_are_collated_in_batches_whose_shares_make_up_the_whole():
    items = [Pair(rollout([i] * 9, [1, 2], -0.5), rollout([i] * 9, [3], -0.25)) for i in range(5)]
    batches = collate(items, len, 2 * group_of(items[0]).tokens, CPU)
    assert [batch.samples for batch in batches] == [(2, 2), (2, 2), (2,)]
    assert [batch.share for batch in batches] == [2 / 5, 2 / 5, 1 / 5]
    for batch in batches:
        pairs = len(batch.samples)
        assert batch.counts and batch.recomputed_logps is None
        assert batch.sampled_logps.tolist() == batch.reference_logps.tolist() == [-0.5, -0.5, -0.25] * pairs
        assert batch.pack.targets.tolist() == [1, 2, 3] * pairs
        assert len(batch.advantages) == len(batch.valid) == 0


def test_groups_are_collated_with_their_advantages():
    first = tuple(rollout([1, 2], ids, -1.0) for ids in ([3], [4, 5], [6]))
    items = [
        ScoredGroup(first, (0.5, -0.5, 0.0), (True, True, False)),
        ScoredGroup((rollout([7], [8, 9], -2.0),), (0.25,), (True,)),
    ]
    (batch,) = collate(items, len, 1000, CPU)
    assert batch.samples == (3, 1) and batch.share == 1.0
    assert batch.advantages.tolist() == [0.5, -0.5, 0.0, 0.25]
    assert batch.valid.tolist() == [True, True, False, True]
    assert batch.sampled_logps.tolist() == [-1.0] * 4 + [-2.0] * 2


SCRIPT = """
import torch
from advgame.trainer.base import collectives
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.learn.collate import collate
from advgame.trainer.records import Pair, Rollout

collectives.start()
pair = lambda n: Pair(*(Rollout([n] * n, [1, 2], [0.0, 0.0], "", True) for _ in range(2)))
batches = collate([pair(n) for n in (9, 8, 7)], len, 12, torch.device("cpu"))
seen = [(len(batch.pack.input_ids), batch.share, batch.counts) for batch in batches]
expected = [(11, 1 / 3, True), (9, 1 / 3, True)], [(10, 1 / 3, True), (9, 0.0, False)]
assert seen == expected[collectives.rank()], seen
collectives.stop()
leave(0)
"""


def test_all_processes_have_as_many_batches(tmp_path):
    """The process with fewer items forwards the smallest one again, with no weight."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
