"""Rollouts: prompts in; token ids, text, finish reason and log-probs out."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from advgame.kernels import sample_top_p
from advgame.trainer.config import ConfigError, SamplingConfig
from advgame.trainer.game import Rollout
from advgame.trainer.models import Policy
from advgame.trainer.randomness import uniforms


@dataclass(frozen=True)
class Prompt:
    """One sequence to be continued."""

    token_ids: list[int]
    key: tuple
    """What the sample is for; with the prompt and the weights, it decides what is sampled (see randomness.py)."""


@torch.no_grad()
def sample(policy: Policy, prompts: list[Prompt], config: SamplingConfig, name: str = "player") -> list[Rollout]:
    """One rollout per prompt, in order. Prompts of like length are batched together. `name` is for errors."""
    check_context(policy, max((len(prompt.token_ids) for prompt in prompts), default=0), config.max_new_tokens, name)
    rollouts: dict[int, Rollout] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
    for start in range(0, len(by_length), config.batch_size):
        batch = by_length[start : start + config.batch_size]
        rollouts.update(zip(batch, _sample_batch(policy, [prompts[i] for i in batch], config), strict=True))
    return [rollouts[i] for i in range(len(prompts))]


def _sample_batch(policy: Policy, prompts: list[Prompt], config: SamplingConfig) -> list[Rollout]:
    policy.activate()
    model, tokenizer = policy.model, policy.tokenizer
    width = max(len(prompt.token_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
        attention_mask[row, width - len(prompt.token_ids) :] = 1
    draws = torch.stack([uniforms(prompt.key, config.max_new_tokens) for prompt in prompts])
    sampler = _Sampler(draws.to(model.device), config)
    output_ids = model.generate(
        input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        logits_processor=LogitsProcessorList([sampler]),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=policy.stop_ids,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    sampled = output_ids[:, width:].tolist()
    logprobs = torch.stack(sampler.logprobs, dim=1).tolist()
    return [_rollout(policy, *row) for row in zip(sampled, logprobs, strict=True)]


def check_context(policy: Policy, longest: int, max_new_tokens: int, name: str) -> None:
    """Whether a prompt of so many tokens leaves the model enough positions. Raises ConfigError."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest + max_new_tokens > context:
        fix = f"set it to {context - longest} or less" if longest < context else "the prompt must be shorter"
        raise ConfigError(
            f"{name}.sampling.max_new_tokens={max_new_tokens}: with a prompt of {longest} tokens this exceeds the "
            f"{context} positions of {policy.model.name_or_path}; {fix}"
        )


def _rollout(policy: Policy, token_ids: list[int], logprobs: list[float]) -> Rollout:
    """Cuts a row of `generate` behind its first stop token."""
    stop = next((i for i, token in enumerate(token_ids) if token in policy.stop_ids), None)
    length = len(token_ids) if stop is None else stop + 1
    return Rollout(
        token_ids=token_ids[:length],
        logprobs=logprobs[:length],
        text=policy.tokenizer.decode(token_ids[:length], skip_special_tokens=True),
        finished=stop is not None,
    )


class _Sampler(LogitsProcessor):
    """Samples inside `generate`: leaves only the sampled token possible, so that greedy search must take it."""

    def __init__(self, draws: Tensor, config: SamplingConfig):
        self.draws = draws  # [rows, max_new_tokens]
        self.config = config
        self.logprobs: list[Tensor] = []  # [rows] a step, raw

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens, logprobs = sample_top_p(
            scores,
            self.draws[:, len(self.logprobs)],
            temperature=self.config.temperature,
            top_p=self.config.top_p,
        )
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
