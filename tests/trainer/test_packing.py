"""Packs: what is in them, and that models compute in them what they compute on separate sequences."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from advgame.kernels.attention import Bounds
from advgame.trainer.config import ConfigError
from advgame.trainer.models import load_policy
from advgame.trainer.packed import FAMILIES, check_family, packed_attention, response_hidden
from advgame.trainer.packing import Group, Pack, pack, plan_packs

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=8)
GROUPS = st.lists(st.builds(Group, TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=6)


def pieces(values: torch.Tensor, bounds: Bounds) -> list[list[int]]:
    return [values[begin:end].tolist() for begin, end in pairwise(bounds.host)]


def unpack(pack: Pack) -> list[Group]:
    """Who a response belongs to is told by the token that predicts its first one: the last of its prompt."""
    prompts = pieces(pack.input_ids, pack.layout.prompts)
    groups = [Group(prompt, []) for prompt in prompts]
    last = {end - 1: group for end, group in zip(pack.layout.prompts.host[1:], groups, strict=True)}
    begins = pack.cu_seqlens.tolist()
    for begin, end in pairwise(begins):
        last[pack.predictors[begin].item()].completions.append(pack.targets[begin:end].tolist())
    return groups


@given(GROUPS)
def test_packing_loses_nothing(groups):
    packed = pack(groups, CPU)
    assert unpack(packed) == groups
    assert len(packed.input_ids) == sum(group.tokens for group in groups) == packed.layout.sequences.host[-1]
    assert packed.layout.prompts.longest == max(len(group.prompt) for group in groups)


@given(GROUPS)
def test_every_token_is_in_its_sequence_at_its_position(groups):
    packed = pack(groups, CPU)
    completions = [(group.prompt, completion) for group in groups for completion in group.completions]
    sequences = pieces(packed.input_ids, packed.layout.sequences)
    positions = pieces(packed.position_ids, packed.layout.sequences)
    assert sequences == [group.prompt for group in groups] + [completion[:-1] for _, completion in completions]
    expected = [list(range(len(group.prompt))) for group in groups]
    expected += [list(range(len(prompt), len(prompt) + len(completion) - 1)) for prompt, completion in completions]
    assert positions == expected
    first = packed.layout.prompts.host[-1]
    by_group = [sum(len(completion) - 1 for completion in group.completions) for group in groups]
    assert torch.tensor(packed.layout.completions.host).diff().tolist() == by_group
    assert packed.layout.completions.host[-1] + first == len(packed.input_ids)
    # What predicts a token is the one before it in its own sequence.
    before = [packed.input_ids[i].item() for i in packed.predictors]
    assert before == [token for prompt, completion in completions for token in (prompt[-1], *completion[:-1])]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(50, 200))
def test_plans_hold_every_group_once_and_keep_to_the_budget(tokens, budget):
    plan = plan_packs(tokens, budget)
    assert sorted(index for indices in plan for index in indices) == list(range(len(tokens)))
    sizes = sorted(sum(tokens[index] for index in indices) for indices in plan)
    assert all(size <= budget for size in sizes)
    assert len(plan) < 2 or sizes[0] + sizes[1] > budget  # no two packs could have been one


def test_a_group_that_is_too_large_is_named():
    with pytest.raises(ValueError, match=r"group 1 has 51 tokens, but a pack's budget is 50: raise the budget to 51"):
        plan_packs([10, 51, 50], 50)


def random_model(family: str, **options):
    config = AutoConfig.for_model(
        family, vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_computes_the_same_in_packs(family):
    """Hidden states to 1e-5, and the gradients of a loss on them by every weight."""
    model = random_model(family, **({"sliding_window": None} if family in ("mistral", "phi3") else {}))
    check_family(model, family)
    generator = torch.Generator().manual_seed(1)
    ids = lambda n: torch.randint(97, (n,), generator=generator).tolist()  # noqa: E731
    groups = [Group(ids(9), [ids(5), ids(1), ids(11)]), Group(ids(1), [ids(7)]), Group(ids(20), [ids(2), ids(2)])]
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
    from advgame.trainer import packed

    monkeypatch.setattr(packed, "FAMILIES", ("gemma2",))
    model = random_model("gemma2", attn_logit_softcapping=0.5, layer_types=["full_attention"] * 2)
    with torch.no_grad():  # scores large enough for the cap to matter
        for layer in model.base_model.layers:
            layer.self_attn.q_proj.weight.mul_(100)
    model.set_attn_implementation("eager")  # some versions cap scores only there
    with pytest.raises(ConfigError, match=r"Gemma2ForCausalLM computes something else in a pack .* differ by"):
        check_family(model, "gemma")
