"""Rollouts of real (tiny) models through transformers' generate."""

import copy

import pytest
import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.generate import GenerateSampler
from advgame.trainer.settings.schema import SamplingConfig

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
    return GenerateSampler(policy, "player").sample(requests, sampling)


def config(**changes) -> SamplingConfig:
    return SamplingConfig(**{"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10, **changes})


def test_logprobs_are_those_of_the_model_at_temperature_one(policy):
    for request, rollout in zip(requests(), sample(policy, requests(), config(temperature=0.7)), strict=True):
        assert rollout.prompt_ids == chat_ids(policy.tokenizer, request.text)
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
        logprobs = policy.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        assert rollout.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


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
    sampler = GenerateSampler(Policy(own, policy.tokenizer), "player")
    before = sampler.sample(requests(), config())
    assert {rollout.version for rollout in before} == {0}
    with torch.no_grad():
        changed = {name: weight + 0.5 * torch.randn_like(weight) for name, weight in other.items()}
    sampler.load(changed.items(), version=7)
    after = sampler.sample(requests(), config())
    assert {rollout.version for rollout in after} == {7}
    assert [r.token_ids for r in after] != [r.token_ids for r in before]
    assert all(torch.equal(changed[name], weight) for name, weight in own.named_parameters())


def test_a_load_that_is_incomplete_or_does_not_fit_is_refused(policy):
    sampler, weights = GenerateSampler(policy, "defender"), dict(policy.named_parameters())
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
