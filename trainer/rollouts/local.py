"""Sampling in this process: slots over a static key-value cache, refilled as soon as a sequence ends."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from advgame.kernels import sample_top_p
from advgame.kernels.decoding import BLOCK, blocks_of
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.randomness import uniforms
from advgame.trainer.models.adapters import merged_weights
from advgame.trainer.models.families import check_layers
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.decoder import Cache, Decoder, Tokens
from advgame.trainer.rollouts.prefixes import Piece, place
from advgame.trainer.rollouts.replay import make_step
from advgame.trainer.settings.schema import Precision, SamplingConfig

WITHOUT_SERVER = "sampled without a server"
WAVE = 4
"""Requests whose prompts are in the cache at a time, as a multiple of the slots."""


class LocalSampler:
    """Samples from a copy of `policy`, which is as the policy was when it was last loaded."""

    def __init__(self, policy: Policy, name: str, precision: Precision = "auto"):
        """name: what the settings call the model, for errors."""
        check_layers(policy.model.config, policy.model.name_or_path, what=WITHOUT_SERVER)
        self.policy, self._name, self._version = policy, name, 0
        self._stop_ids = frozenset(policy.stop_ids)
        self.dtype = policy.dtype_of(precision)
        self._decoder = Decoder(policy.model, self.dtype)
        if policy.adapter:
            for weight_name, weight in policy.model.named_parameters():
                if ".lora_" not in weight_name:
                    self._decoder.set(weight_name.replace(".base_layer", ""), policy.whole(weight))
        self._shapes: dict[str, torch.Size] = {}  # of what was loaded first: where weights are shards, they have none
        self.load(policy.weights(), 0)

    def freeze(self) -> "LocalSampler":
        """Frees the policy's weights, of which it has a copy: for a model that does not change. Returns itself."""
        self.policy.model.to("meta")
        return self

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies the weights; those of an adapter are added to the model's."""
        own, adapter = self.policy.named_parameters(), {}
        missing = set(own)
        for name, weight in weights:
            if name not in own or self._shapes.setdefault(name, weight.shape) != weight.shape:
                raise ValueError(f"{self._name}: cannot load {name} {list(weight.shape)}")
            if self.policy.adapter:
                adapter[name] = weight
            else:
                self._decoder.set(name, weight)
            missing.discard(name)
        if missing:
            raise ValueError(f"{self._name}: no weights for {', '.join(sorted(missing))}")
        for name, weight in merged_weights(self.policy, adapter):
            self._decoder.set(name, weight)
        self._version = version

    @torch.no_grad()
    def sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | None]:
        prompts = {text: chat_ids(self.policy.tokenizer, text) for text in dict.fromkeys(r.text for r in requests)}
        longest = max(map(len, prompts.values()), default=0)
        check_context(self.policy, longest, sampling.max_new_tokens, self._name)
        samples = [
            _Sample(prompts[request.text], uniforms(request.key, sampling.max_new_tokens)) for request in requests
        ]
        size = WAVE * sampling.batch_size
        for begin in range(0, len(samples), size):
            self._sample_wave(samples[begin : begin + size], sampling)
        return [self._rollout(sample) for sample in samples]

    @torch.no_grad()
    def logprobs(self, prompt: list[int], completion: list[int]) -> Tensor:
        """[len(completion)] log-probs of given tokens, computed as those of sampled ones are."""
        (pack,) = place([prompt], self._decoder.device)
        cache = self._decoder.new_cache(pack.blocks + blocks_of(len(completion)))
        sample = _Sample(prompt, torch.empty(0), pieces=pack.pieces[0], block=pack.blocks)
        hidden = self._decoder.forward(pack.tokens, cache)[pack.last]
        logprobs = []
        for token in completion:
            logprobs.append(self._decoder.logits(hidden).log_softmax(-1)[0, token])
            sample.token_ids.append(token)
            hidden = self._decoder.forward(self._newest([sample]), cache)
        return torch.stack(logprobs)

    def close(self) -> None:
        del self._decoder

    def _sample_wave(self, samples: list["_Sample"], sampling: SamplingConfig) -> None:
        """Samples whose prompts are in the cache together."""
        slots, room = min(sampling.batch_size, len(samples)), blocks_of(sampling.max_new_tokens - 1)
        packs = place([sample.prompt_ids for sample in samples], self._decoder.device)
        prompts = sum(pack.blocks for pack in packs)
        cache = self._decoder.new_cache(prompts + slots * room + 1)
        for pack in packs:
            hidden = self._decoder.forward(pack.tokens, cache)
            for begin in range(0, len(pack.members), slots):  # no more logits at a time than later
                members = slice(begin, begin + slots)
                begun = [samples[i] for i in pack.members[members]]
                for sample, pieces in zip(begun, pack.pieces[members], strict=True):
                    sample.pieces = pieces
                self._draw(self._decoder.logits(hidden[pack.last[members]]), begun, sampling)
        self._continue([sample for sample in samples if not self._ended(sample, sampling)], cache, sampling, prompts)

    def _continue(self, samples: list["_Sample"], cache: Cache, sampling: SamplingConfig, first_block: int) -> None:
        """To their ends, each in one of the slots, which begin at `first_block`."""
        slots, room = min(sampling.batch_size, len(samples)), blocks_of(sampling.max_new_tokens - 1)
        free = [first_block + slot * room for slot in reversed(range(slots))]
        step = make_step(self._decoder, cache, spare=first_block + slots * room)
        waiting = samples[::-1]
        running: list[_Sample] = []
        while waiting or running:
            while waiting and free:
                waiting[-1].block = free.pop()
                running.append(waiting.pop())
            self._draw(step(self._newest(running)), running, sampling)
            free += [sample.block for sample in running if self._ended(sample, sampling)]
            running = [sample for sample in running if not self._ended(sample, sampling)]

    def _newest(self, samples: list["_Sample"]) -> Tokens:
        """The last token of each."""
        counts = [len(sample.token_ids) for sample in samples]
        tensor = partial(torch.tensor, device=self._decoder.device)
        return Tokens(
            ids=tensor([sample.token_ids[-1] for sample in samples]),
            positions=tensor([len(s.prompt_ids) + n - 1 for s, n in zip(samples, counts, strict=True)]),
            places=tensor([s.block * BLOCK + n - 1 for s, n in zip(samples, counts, strict=True)]),
            sees=tensor([[*s.pieces, (s.block, n)] for s, n in zip(samples, counts, strict=True)], dtype=torch.int32),
        )

    def _draw(self, logits: Tensor, samples: list["_Sample"], sampling: SamplingConfig) -> None:
        """The next token of each. logits: [samples, V]."""
        draws = torch.stack([sample.draws[len(sample.token_ids)] for sample in samples]).to(logits.device)
        try:
            tokens, logprobs = sample_top_p(logits, draws, temperature=sampling.temperature, top_p=sampling.top_p)
        except ValueError as error:
            raise FloatingPointError(f"the {self._name} cannot be sampled, its weights are broken: {error}") from error
        for sample, token, logprob in zip(samples, tokens.tolist(), logprobs.tolist(), strict=True):
            sample.token_ids.append(token)
            sample.logprobs.append(logprob)

    def _ended(self, sample: "_Sample", sampling: SamplingConfig) -> bool:
        return sample.token_ids[-1] in self._stop_ids or len(sample.token_ids) == sampling.max_new_tokens

    def _rollout(self, sample: "_Sample") -> Rollout:
        return Rollout(
            prompt_ids=sample.prompt_ids,
            token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            text=self.policy.tokenizer.decode(sample.token_ids, skip_special_tokens=True),
            finished=sample.token_ids[-1] in self._stop_ids,
            version=self._version,
        )


@dataclass
class _Sample:
    prompt_ids: list[int]
    draws: Tensor
    """[max_new_tokens] float64, a uniform number for each token."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pieces: tuple[Piece, Piece] = ((0, 0), (0, 0))
    """Of the prompt, in the cache."""
    block: int = 0
    """Where its own tokens begin."""


def check_context(policy: Policy, prompt_tokens: int, max_new_tokens: int, name: str) -> None:
    """Raises ConfigError if the model has too few positions for a prompt and its longest sample."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt_tokens + max_new_tokens > context:
        room = context - prompt_tokens
        fix = f"set it to {room} or less" if room > 0 else "the prompt must be shorter"
        raise ConfigError(
            f"{name}.sampling.max_new_tokens={max_new_tokens}: with a prompt of {prompt_tokens} tokens this exceeds "
            f"the {context} positions of {policy.model.name_or_path}; {fix}"
        )
