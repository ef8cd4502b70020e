"""Rollouts of real models by the sampler of this process; transformers' forward pass and generate are the oracles."""

import copy

import pytest
import torch
from helpers import random_model
from support.generate import GenerateSampler

from advgame.kernels.decoding import BLOCK
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.adapters import add_adapters
from advgame.trainer.models.families import MODEL_TYPES
from advgame.trainer.models.load import load_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.rollouts.prefixes import place
from advgame.trainer.settings.schema import LoraConfig, SamplingConfig

LENGTHS = (3, 17, 5, 40, 9)
"""Words of the prompts."""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny")


def requests(run: int = 0) -> list[Request]:
    words = "lock garden shed password old laptop exam night school".split()
    texts = (" ".join(words[(i + k) % len(words)] for k in range(length)) for i, length in enumerate(LENGTHS))
    return [Request(text, (run, i)) for i, text in enumerate(texts)]


def sample(policy: Policy, requests: list[Request], sampling: SamplingConfig) -> list[Rollout]:
    return LocalSampler(policy, "player").sample(requests, sampling)


def config(**changes) -> SamplingConfig:
    return SamplingConfig(**{"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10, **changes})


def logprobs_of(policy: Policy, rollout: Rollout) -> list[float]:
    """Of the sampled tokens, by a forward pass without a cache."""
    policy.activate()
    ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
    with torch.no_grad():
        logprobs = policy.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()


def test_logprobs_are_those_of_the_model_at_temperature_one(policy):
    for request, rollout in zip(requests(), sample(policy, requests(), config(temperature=0.7)), strict=True):
        assert rollout.prompt_ids == chat_ids(policy.tokenizer, request.text)
        assert rollout.logprobs == pytest.approx(logprobs_of(policy, rollout), abs=1e-4)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_every_family(policy, family):
    model = random_model(family)
    rollouts = sample(Policy(model, policy.tokenizer), requests(), config())
    for rollout in rollouts:
        assert rollout.logprobs == pytest.approx(logprobs_of(Policy(model, policy.tokenizer), rollout), abs=1e-4)


def test_other_families_are_refused_by_name(policy):
    with pytest.raises(ConfigError, match="gpt2 cannot be"):
        LocalSampler(Policy(random_model("gpt2"), policy.tokenizer), "player")


def test_adapters_over_one_model_are_sampled_apart(policy):
    base = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    adapters = add_adapters(base, ["one", "other"], LoraConfig(rank=4), 0, None)
    samplers = [LocalSampler(adapter, "player") for adapter in adapters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in adapters:
            for weight in adapter.named_parameters().values():
                weight.normal_(generator=generator)
    for sampler, adapter in zip(samplers, adapters, strict=True):
        sampler.load(adapter.named_parameters().items(), version=1)
    first, second = (sampler.sample(requests(), config()) for sampler in samplers)
    assert [r.token_ids for r in first] != [r.token_ids for r in second]
    for adapter, rollouts in zip(adapters, (first, second), strict=True):
        for rollout in rollouts:
            assert rollout.logprobs == pytest.approx(logprobs_of(adapter, rollout), abs=1e-3)


def many(opening: int = 40) -> list[Request]:
    """Prompts that begin alike, equal ones among them, and others."""
    words = "lock garden shed password old laptop exam night school".split()
    instruction = " ".join(words[i % len(words)] for i in range(opening))
    texts = [f"{instruction} {words[i % 5]} {words[i % 3]}" for i in range(20)] + [words[i % 9] for i in range(7)]
    return [Request(text, ("many", i)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_neither_order_nor_slots_matter(policy, batch_size):
    """Slots are refilled as samples end, so that rows of all lengths are side by side."""
    sampling = config(max_new_tokens=40)
    expected = sample(policy, many(), sampling)
    assert len({len(rollout.token_ids) for rollout in expected}) > 5
    shuffled = sample(policy, many()[::-1], config(max_new_tokens=40, batch_size=batch_size))[::-1]
    assert [r.token_ids for r in shuffled] == [r.token_ids for r in expected]
    for one, other in zip(shuffled, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_samples_follow_the_models_distribution(policy):
    """Chi-square of the first two tokens, over many samples of one prompt."""
    draws, text = 4000, "lock garden"
    rollouts = sample(policy, [Request(text, (i,)) for i in range(draws)], config(max_new_tokens=2, top_p=1.0))
    prompt = rollouts[0].prompt_ids
    with torch.no_grad():
        first = policy.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        after = policy.model(torch.tensor([[*prompt, i] for i in range(len(first))])).logits[:, -1].softmax(-1)
    after[policy.stop_ids] = 0  # a sample that has ended has no second token
    observed = torch.zeros_like(after)
    for rollout in rollouts:
        if len(rollout.token_ids) == 2:
            observed[tuple(rollout.token_ids)] += 1
    expected = draws * first[:, None] * after
    frequent = expected >= 5
    assert frequent.sum() > 30
    chi_square = ((observed - expected)[frequent] ** 2 / expected[frequent]).sum().item()
    degrees = int(frequent.sum())
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_what_prompts_begin_with_is_stored_once(policy):
    prompts = [chat_ids(policy.tokenizer, request.text) for request in many(opening=100)]
    packs = place(prompts, torch.device("cpu"))
    stored = sum(len(pack.tokens.ids) for pack in packs)
    assert stored < 0.2 * sum(map(len, prompts))
    assert sorted(i for pack in packs for i in pack.members) == list(range(len(prompts)))
    for pack in packs:
        ids, places = pack.tokens.ids.tolist(), pack.tokens.places.tolist()
        assert len(set(places)) == len(places) and max(places) < BLOCK * sum(pack.blocks for pack in packs)
        at = dict(zip(places, ids, strict=True))
        for index, last, pieces in zip(pack.members, pack.last.tolist(), pack.pieces, strict=True):
            assert [at[block * BLOCK + i] for block, count in pieces for i in range(count)] == prompts[index]
            assert ids[last] == prompts[index][-1]


QUESTIONS = ("How do I reset my password?", "Tell me a story about a fox.", "Why is the sky blue?", "Write a poem.")


@pytest.mark.slow
def test_greedy_samples_of_smollm2_are_those_of_generate():
    policy = load_policy("smollm2-135m")
    asked = [Request(question, (0,)) for question in QUESTIONS]
    sampling = config(temperature=0, max_new_tokens=30)
    expected = GenerateSampler(policy, "player").sample(asked, sampling)
    actual = LocalSampler(policy, "player", "float32").sample(asked, sampling)
    assert [r.token_ids for r in actual] == [r.token_ids for r in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.slow
def test_bfloat16_samples_of_smollm2_are_close_and_repeat():
    policy = load_policy("smollm2-135m")
    asked = [Request(question, (i,)) for i, question in enumerate(QUESTIONS)]
    sampler = LocalSampler(policy, "player", "bfloat16")
    rollouts = sampler.sample(asked, config(max_new_tokens=30))
    assert rollouts == sampler.sample(asked, config(max_new_tokens=30))
    differences = [abs(a - b) for r in rollouts for a, b in zip(r.logprobs, logprobs_of(policy, r), strict=True)]
    assert sum(differences) / len(differences) < 0.05


def test_stops_at_the_first_end_token_and_says_why(policy):
    rollouts = [r for run in range(10) for r in sample(policy, requests(run), config())]
    for rollout in rollouts:
        assert rollout.finished == (rollout.token_ids[-1] in policy.stop_ids)
        assert not set(rollout.token_ids[:-1]) & set(policy.stop_ids)
        assert len(rollout.token_ids) == len(rollout.logprobs) <= 10
        assert rollout.finished or len(rollout.token_ids) == 10
        assert "<end" not in rollout.text and "<pad>" not in rollout.text
    assert {rollout.finished for rollout in rollouts} == {True, False}


def test_the_batch_that_a_sample_is_drawn_in_does_not_matter(policy):
    together = sample(policy, requests(), config())
    alone = [sample(policy, [request], config())[0] for request in requests()]
    pairs = sample(policy, requests(), config(batch_size=2))
    assert [r.token_ids for r in together] == [r.token_ids for r in alone] == [r.token_ids for r in pairs]


def test_deterministic_under_its_key(policy):
    assert sample(policy, requests(), config()) == sample(policy, requests(), config())
    assert sample(policy, requests(), config()) != sample(policy, requests(run=1), config())


def test_temperature_zero_is_greedy(policy):
    for rollout in sample(policy, requests(), config(temperature=0)):
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
        assert policy.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].argmax(-1).tolist() == rollout.token_ids


def test_nothing_to_sample(policy):
    assert sample(policy, [], config()) == []


def test_a_context_that_is_too_short_is_named(policy):
    context = policy.model.config.max_position_embeddings
    longest = max(len(chat_ids(policy.tokenizer, request.text)) for request in requests())
    with pytest.raises(ConfigError, match=rf"max_new_tokens={context}.*set it to {context - longest} or less"):
        sample(policy, requests(), config(max_new_tokens=context))


def test_a_load_replaces_the_weights_and_marks_the_rollouts(policy):
    own, other = copy.deepcopy(policy.model), policy.named_parameters()
    sampler = LocalSampler(Policy(own, policy.tokenizer), "player")
    before = sampler.sample(requests(), config())
    assert {rollout.version for rollout in before} == {0}
    with torch.no_grad():
        changed = {name: weight + 0.5 * torch.randn_like(weight) for name, weight in other.items()}
    sampler.load(changed.items(), version=7)
    after = sampler.sample(requests(), config())
    assert {rollout.version for rollout in after} == {7}
    assert [r.token_ids for r in after] != [r.token_ids for r in before]
    with torch.no_grad():
        for name, weight in own.named_parameters():
            weight.copy_(changed[name])
    assert after[0].logprobs == pytest.approx(logprobs_of(sampler.policy, after[0]), abs=1e-4)


def test_a_load_that_is_incomplete_or_does_not_fit_is_refused(policy):
    sampler, weights = LocalSampler(policy, "defender"), dict(policy.named_parameters())
    name = next(iter(weights))
    with pytest.raises(ValueError, match=f"defender: no weights for {name}$"):
        sampler.load([item for item in weights.items() if item[0] != name], version=1)
    for wrong in ({name: weights[name][:-1]}, {"unknown": weights[name]}):
        with pytest.raises(ValueError, match=rf"defender: cannot load {next(iter(wrong))} \["):
            sampler.load(wrong.items(), version=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_named_and_nothing_is_sampled(policy, value):
    broken = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(value)
    with pytest.raises(FloatingPointError, match="the player cannot be sampled, its weights are broken: logits"):
        sample(broken, requests(), config())


def test_a_model_that_does_not_change_is_held_once(policy):
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    expected = sample(policy, requests(), config())
    sampler = LocalSampler(own, "judge").freeze()
    assert all(weight.is_meta for weight in own.model.parameters())
    assert sampler.sample(requests(), config()) == expected
