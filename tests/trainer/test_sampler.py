"""Rollouts of real (tiny) models through transformers' generate."""

import pytest
import torch

from advgame.trainer.config import ConfigError, SamplingConfig
from advgame.trainer.models import Policy, load_policy
from advgame.trainer.sampler import Prompt, sample

LENGTHS = (3, 17, 5, 40, 9)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny")


def prompts(policy: Policy, run: int = 0) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    vocab = policy.model.config.vocab_size
    return [
        Prompt(torch.randint(vocab, (length,), generator=generator).tolist(), (run, i))
        for i, length in enumerate(LENGTHS)
    ]


def config(**changes) -> SamplingConfig:
    return SamplingConfig(**{"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10, **changes})


def test_logprobs_are_those_of_the_model_at_temperature_one(policy):
    for prompt, rollout in zip(prompts(policy), sample(policy, prompts(policy), config(temperature=0.7)), strict=True):
        ids = torch.tensor([prompt.token_ids + rollout.token_ids])
        logprobs = policy.model(ids).logits[0, len(prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        assert rollout.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_stops_at_the_first_end_token_and_says_why(policy):
    rollouts = [r for run in range(10) for r in sample(policy, prompts(policy, run), config())]
    for rollout in rollouts:
        assert rollout.finished == (rollout.token_ids[-1] in policy.stop_ids)
        assert not set(rollout.token_ids[:-1]) & set(policy.stop_ids)
        assert len(rollout.token_ids) == len(rollout.logprobs) <= 10
        assert rollout.finished or len(rollout.token_ids) == 10
        assert "<end" not in rollout.text and "<pad>" not in rollout.text
    assert {rollout.finished for rollout in rollouts} == {True, False}


def test_the_batch_that_a_sample_is_drawn_in_does_not_matter(policy):
    together = sample(policy, prompts(policy), config())
    alone = [sample(policy, [prompt], config())[0] for prompt in prompts(policy)]
    pairs = sample(policy, prompts(policy), config(batch_size=2))
    assert [r.token_ids for r in together] == [r.token_ids for r in alone] == [r.token_ids for r in pairs]


def test_deterministic_under_its_key(policy):
    assert sample(policy, prompts(policy), config()) == sample(policy, prompts(policy), config())
    assert sample(policy, prompts(policy), config()) != sample(policy, prompts(policy, run=1), config())


def test_temperature_zero_is_greedy(policy):
    for prompt, rollout in zip(prompts(policy), sample(policy, prompts(policy), config(temperature=0)), strict=True):
        ids = torch.tensor([prompt.token_ids + rollout.token_ids])
        assert policy.model(ids).logits[0, len(prompt.token_ids) - 1 : -1].argmax(-1).tolist() == rollout.token_ids


def test_nothing_to_sample(policy):
    assert sample(policy, [], config()) == []


def test_a_context_that_is_too_short_is_named(policy):
    context = policy.model.config.max_position_embeddings
    with pytest.raises(ConfigError, match=rf"max_new_tokens={context}.*set it to {context - 40} or less"):
        sample(policy, prompts(policy), config(max_new_tokens=context))
