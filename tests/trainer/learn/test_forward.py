"""Models compute in packs what they compute on separate sequences; a player is one module."""

import copy
from functools import partial

import pytest
import torch
from helpers import policy_of, random_model
from transformers import AutoConfig, AutoModelForCausalLM

from advgame.kernels import linear_logprobs
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.collate import collate
from advgame.trainer.learn.forward import (
    Player,
    check_packable,
    embed,
    packed_attention,
    reference_logps,
    response_hidden,
)
from advgame.trainer.learn.loss import make_objective
from advgame.trainer.learn.recompute import recomputing
from advgame.trainer.models.adapters import add_adapters
from advgame.trainer.models.families import MODEL_TYPES
from advgame.trainer.models.head import head
from advgame.trainer.models.load import load_policy
from advgame.trainer.packs import Group, pack
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.settings.schema import LoraConfig, LossConfig

CPU = torch.device("cpu")
GROUPS = [Group([5, 6, 7, 5], [[8, 9], [10]]), Group([0, 11], [[5, 0, 12, 5]])]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_known_type_computes_the_same_in_packs(model_type):
    """Hidden states to 1e-5, and the gradients of a loss on them by every weight."""
    model = random_model(model_type)
    check_packable(policy_of(model), model_type)
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
        actual = response_hidden(policy_of(model), pack(groups, CPU))
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


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_products_in_bfloat16(model_type):
    """As on CUDA: hidden states and gradients are close to float32's; weights, sums and the gradients are float32."""
    model = random_model(model_type)
    generator = torch.Generator().manual_seed(1)
    ids = lambda n: torch.randint(97, (n,), generator=generator).tolist()  # noqa: E731
    opening = ids(20)
    batch = pack([Group(opening + ids(3), [ids(4), ids(6)]), Group(opening + ids(1), [ids(2)])], CPU)
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        for recompute in ("none", "layers"):
            with packed_attention(model), recomputing(model, recompute):
                hidden = response_hidden(policy_of(model, dtype), batch, embed(model, batch))
                assert hidden.dtype == dtype
                logps = linear_logprobs(hidden, targets=batch.targets, **head(model, dtype))
                logps.float().mean().backward()
        results[dtype] = hidden.detach().float(), {n: p.grad.clone() for n, p in model.named_parameters()}
    (exact, gradients), (rounded, rounded_gradients) = results.values()
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()
    for name, gradient in gradients.items():
        assert rounded_gradients[name].dtype == torch.float32
        assert (rounded_gradients[name] - gradient).norm() < 0.1 * gradient.norm().clamp_min(1e-3), name


def test_the_models_own_attention_comes_back():
    model = load_policy("tiny").model
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(ids).logits
    with packed_attention(model):
        response_hidden(policy_of(model), pack([Group([5, 6], [[7, 8]])], CPU))
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
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
def test_models_that_would_be_wrong_are_refused_by_name(model_type, options, message):
    if model_type == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=97, n_embd=32, n_layer=1, n_head=2)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = random_model(model_type, **options)
    with pytest.raises(ConfigError, match=f"model some/folder: {message}"):
        check_packable(policy_of(model), "some/folder")


def test_a_model_that_computes_something_else_is_refused():
    """A gemma-like model, whose scores are capped, is found out even if its type were known."""
    model = random_model("gemma2", attn_logit_softcapping=0.5, sliding_window=64, layer_types=["full_attention"] * 2)
    with torch.no_grad():  # scores large enough for the cap to matter
        for layer in model.base_model.layers:
            layer.self_attn.q_proj.weight.mul_(100)
    model.set_attn_implementation("eager")  # some versions cap scores only there
    with pytest.raises(ConfigError, match=r"Gemma2ForCausalLM computes something else in a pack .* differ by"):
        check_packable(policy_of(model), "gemma", model_types=("gemma2",))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_have_the_gradient_that_autograd_gives_them(tied):
    """Over two packs, with repeated tokens and the padding token among them."""
    model = random_model("llama", tie_word_embeddings=tied)
    expected = copy.deepcopy(model)
    assert model.get_input_embeddings().padding_idx == 0
    for part in GROUPS:
        batch = pack([part], CPU)
        for each, embeddings in ((model, embed(model, batch)), (expected, None)):
            with packed_attention(each):
                hidden = response_hidden(policy_of(each), batch, embeddings)
                each.get_output_embeddings()(hidden).square().sum().backward()
    for (name, parameter), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(parameter.grad, wanted.grad, rtol=1e-5, atol=1e-6), name
    assert tied or not model.get_input_embeddings().weight.grad[0].any()


def test_frozen_embeddings_have_no_gradient():
    model = random_model("llama", tie_word_embeddings=False)
    model.get_input_embeddings().weight.requires_grad_(False)
    batch = pack(GROUPS, CPU)
    with packed_attention(model):
        response_hidden(policy_of(model), batch, embed(model, batch)).sum().backward()
    assert model.get_input_embeddings().weight.grad is None


def pairs() -> list[Pair]:
    rollouts = [Rollout([5, 6, 7], ids, [-2.0] * len(ids), "", True) for ids in ([8, 9, 10], [11])]
    return [Pair(*rollouts)]


def test_a_players_parameters_are_the_policys_own():
    base = load_policy("tiny")
    whole = Player(base, make_objective(LossConfig()))
    assert dict(whole.named_parameters()).keys() == dict(base.model.named_parameters()).keys()
    one, other = add_adapters(base, ["one", "other"], LoraConfig(rank=2), 0, None)
    player = Player(one, make_objective(LossConfig()))
    parameters = dict(player.named_parameters())
    assert parameters == one.named_parameters() and list(player.parameters()) == list(parameters.values())
    assert parameters and not parameters.keys() & other.named_parameters().keys()

    other.activate()  # as another player did last
    (batch,) = collate(pairs(), len, 1000, CPU)
    with packed_attention(player.model):
        player(batch.pack, partial(player.objective, batch=batch)).loss.backward()
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert all(parameter.grad is None for parameter in other.named_parameters().values())
    assert all((p.grad is not None) == (name in parameters) for name, p in base.model.named_parameters())


def test_reference_log_probs_are_the_models_own():
    policy = load_policy("tiny")
    (batch,) = collate(pairs(), len, 1000, CPU)
    (pair,) = pairs()
    expected = []
    for rollout in pair.rollouts:
        logits = policy.model(torch.tensor([rollout.prompt_ids + rollout.token_ids])).logits[0, 2:-1]
        expected += logits.log_softmax(-1).gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()
    assert reference_logps(policy, [batch.pack])[0].tolist() == pytest.approx(expected, abs=1e-5)
