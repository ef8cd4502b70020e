"""Packs: what is in them, and that models compute in them what they compute on separate sequences."""

from bisect import bisect_right
from itertools import pairwise

import pytest
import torch
from helpers import random_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.collate import SHORTEST_PREFIX, Group, Pack, families, pack, plan_packs
from advgame.trainer.learn.forward import FAMILIES, check_family, packed_attention, response_hidden
from advgame.trainer.models.load import load_policy

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
def test_every_response_goes_on_from_its_prompt(groups):
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
    with pytest.raises(ValueError, match=r"group 1 has 51 tokens, but a pack's budget is 50: raise the budget to 51"):
        plan_packs(groups, 50)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_computes_the_same_in_packs(family):
    """Hidden states to 1e-5, and the gradients of a loss on them by every weight."""
    model = random_model(family)
    check_family(model, family)
    generator = torch.Generator().manual_seed(1)
    ids = lambda n: torch.randint(97, (n,), generator=generator).tolist()  # noqa: E731
    opening = ids(20)
    groups = [
        Group(ids(9), [ids(5), ids(1), ids(11)]),
        Group(opening + ids(3), [ids(4), ids(6)]),
        Group(ids(1), [ids(7)]),
        Group(opening + ids(1), [ids(2), ids(2)]),
    ]
    with packed_attention(model):
        actual = response_hidden(model, pack(groups, CPU))
    sequences = [(group.prompt, completion) for group in groups for completion in group.completions]
    expected = torch.cat(
        [
            model.base_model(torch.tensor([prompt + completion])).last_hidden_state[0, len(prompt) - 1 : -1]
            for prompt, completion in sequences
        ]
    )
    assert torch.allclose(actual, expected, atol=1e-5)
    upstream = torch.randn(expected.shape, generator=generator)
    weights = [p for name, p in model.named_parameters() if "lm_head" not in name]
    gradients = (torch.autograd.grad((states * upstream).sum(), weights) for states in (actual, expected))
    for a, e in zip(*gradients, strict=True):
        assert (a - e).norm() <= 1e-5 * e.norm().clamp_min(1e-3)


def test_the_models_own_attention_comes_back():
    model = load_policy("tiny").model
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(ids).logits
    with packed_attention(model):
        response_hidden(model, pack([Group([5, 6], [[7, 8]])], CPU))
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("gpt2", {}, "a gpt2 cannot be trained in packs; granite, llama"),
        ("mistral", {"sliding_window": 16}, "layers with a window of 16 tokens cannot be trained in packs"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "layers with sliding_attention cannot be trained in packs",
        ),
    ],
)
def test_models_that_would_be_wrong_are_refused_by_name(family, options, message):
    if family == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=97, n_embd=32, n_layer=1, n_head=2)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = random_model(family, **options)
    with pytest.raises(ConfigError, match=f"model some/folder: {message}"):
        check_family(model, "some/folder")


def test_a_family_that_computes_something_else_is_refused(monkeypatch):
    """A gemma-like model whose scores are capped passes neither unnoticed nor by name."""

    monkeypatch.setattr(packed, "FAMILIES", ("gemma2",))
    model = random_model("gemma2", attn_logit_softcapping=0.5, sliding_window=64, layer_types=["full_attention"] * 2)
    with torch.no_grad():  # scores large enough for the cap to matter
        for layer in model.base_model.layers:
            layer.self_attn.q_proj.weight.mul_(100)
    model.set_attn_implementation("eager")  # some versions cap scores only there
    with pytest.raises(ConfigError, match=r"Gemma2ForCausalLM computes something else in a pack .* differ by"):
        check_family(model, "gemma")
