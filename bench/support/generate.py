"""The sampler to compare with: transformers' generate, on the policy itself."""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from advgame.kernels import sample_top_p
from advgame.trainer.base.randomness import uniforms
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import check_context
from advgame.trainer.settings.schema import SamplingConfig


class GenerateSampler:
    """Samples from `policy`, which it shares with whoever else holds it."""

    def __init__(self, policy: Policy, name: str):
        """name: what the settings call the model, for errors."""
        self.policy, self._name, self._version = policy, name, 0

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """A weight that is the policy's own tensor is not copied."""
        own = self.policy.named_parameters()
        missing = set(own)
        for name, weight in weights:
            if name not in own or own[name].shape != weight.shape:
                raise ValueError(f"{self._name}: cannot load {name} {list(weight.shape)}")
            if own[name].data_ptr() != weight.data_ptr():
                own[name].copy_(weight)
            missing.discard(name)
        if missing:
            raise ValueError(f"{self._name}: no weights for {', '.join(sorted(missing))}")
        self._version = version

    @torch.no_grad()
    def sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | None]:
        """Prompts of similar length are batched together."""
        texts = dict.fromkeys(request.text for request in requests)
        encoded = {text: chat_ids(self.policy.tokenizer, text) for text in texts}
        longest = max((len(ids) for ids in encoded.values()), default=0)
        check_context(self.policy, longest, sampling.max_new_tokens, self._name)
        prompts = [encoded[request.text] for request in requests]
        by_length = sorted(range(len(requests)), key=lambda i: len(prompts[i]))
        rollouts: list[Rollout | None] = [None] * len(requests)
        for start in range(0, len(requests), sampling.batch_size):
            batch = by_length[start : start + sampling.batch_size]
            rows = self._sample_batch([requests[i] for i in batch], [prompts[i] for i in batch], sampling)
            for i, rollout in zip(batch, rows, strict=True):
                rollouts[i] = rollout
        return rollouts

    def close(self) -> None:
        pass  # the policy is not ours

    def _sample_batch(
        self, requests: list[Request], prompts: list[list[int]], sampling: SamplingConfig
    ) -> list[Rollout]:
        policy, limit = self.policy, sampling.max_new_tokens
        policy.activate()
        model, tokenizer = policy.model, policy.tokenizer
        width = max(len(ids) for ids in prompts)
        input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(prompts):
            input_ids[row, width - len(ids) :] = torch.tensor(ids)
            attention_mask[row, width - len(ids) :] = 1
        draws = torch.stack([uniforms(request.key, limit) for request in requests])
        processor = _SamplingProcessor(draws.to(model.device), sampling, self._name)
        output_ids = model.generate(
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            logits_processor=LogitsProcessorList([processor]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=limit,
                eos_token_id=policy.stop_ids,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )
        sampled = output_ids[:, width:].tolist()
        logprobs = torch.stack(processor.logprobs, dim=1).tolist()
        return [self._rollout(*row) for row in zip(prompts, sampled, logprobs, strict=True)]

    def _rollout(self, prompt_ids: list[int], token_ids: list[int], logprobs: list[float]) -> Rollout:
        """Cuts a row of `generate` after its first stop token."""
        stop_ids = self.policy.stop_ids
        stop = next((i for i, token in enumerate(token_ids) if token in stop_ids), None)
        length = len(token_ids) if stop is None else stop + 1
        return Rollout(
            prompt_ids=prompt_ids,
            token_ids=token_ids[:length],
            logprobs=logprobs[:length],
            text=self.policy.tokenizer.decode(token_ids[:length], skip_special_tokens=True),
            finished=stop is not None,
            version=self._version,
        )


class _SamplingProcessor(LogitsProcessor):
    """Samples inside `generate`: every other token is made impossible, so greedy search takes the sampled one."""

    def __init__(self, draws: Tensor, sampling: SamplingConfig, name: str):
        self._draws = draws  # [rows, max_new_tokens]
        self._sampling, self._name = sampling, name
        self.logprobs: list[Tensor] = []  # raw ones, [rows] for each step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        try:
            tokens, logprobs = sample_top_p(
                scores,
                self._draws[:, len(self.logprobs)],
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
            )
        except ValueError as error:
            raise FloatingPointError(f"the {self._name} cannot be sampled, its weights are broken: {error}") from error
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
