"""One step of teaching: examples as tokens, and the loss that makes their answers likelier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advgame.kernels import linear_logprobs
from advgame.trainer.learn.collate import Batch
from advgame.trainer.learn.loss import LossOutput
from advgame.trainer.learn.step import Learner, learning_rate, make_learner, take_step
from advgame.trainer.models.head import Head
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.prompts.chat import answer_ids, chat_ids
from advgame.trainer.records import Demonstration, Item
from advgame.trainer.settings.schema import PlayerConfig, WarmstartConfig
from advgame.trainer.warmstart.examples import Example

FIRST = 3
"""The tokens of an answer that decide it."""
SHORT = 8
"""Tokens of an answer of which only the beginning is taught."""


def demonstrate(example: Example, policy: Policy) -> Demonstration:
    """An example in tokens; an answer ends with the end-of-sequence token, unless it is cut short."""
    tokenizer = policy.tokenizer
    end = policy.stop_ids[0] if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    said = [*answer_ids(tokenizer, example.said), end]
    return Demonstration(chat_ids(tokenizer, example.told), said[:SHORT] if example.short else said)


@dataclass(frozen=True)
class ImitationObjective:
    """The negative log-prob of what was demonstrated: a weighted mean over the tokens.

    first_weight: of the first tokens of a completion; the others have 1.
    """

    first_weight: float
    unit: ClassVar[str] = "examples"

    def count(self, items: Sequence[Item]) -> float:
        """The sum of the weights."""
        lengths = [len(rollout.token_ids) for item in items for rollout in item.rollouts]
        return sum(length + (self.first_weight - 1) * min(length, FIRST) for length in lengths)

    def __call__(self, hidden: Tensor, head: Head, batch: Batch) -> LossOutput:
        logps = linear_logprobs(hidden, targets=batch.pack.targets, **head)
        weights = torch.where(places(batch.pack.cu_seqlens) < FIRST, self.first_weight, 1.0)
        return LossOutput(-(weights * logps).sum() / weights.sum(), {})


def places(cu_seqlens: Tensor) -> Tensor:
    """[R] int32: the place of each response token in its response, from 0."""
    begins = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
    return torch.arange(len(begins), dtype=torch.int32, device=begins.device) - begins


def make_pupil(policy: Policy, config: WarmstartConfig) -> Learner:
    """Raises ConfigError if the model cannot be trained in packs."""
    weight = config.defender.first_tokens_weight if config.player == "defender" else 1.0
    player = PlayerConfig(model=config.model, lora=config.lora, precision=config.precision, optimizer=config.optimizer)
    return make_learner(config.player, PlayerPolicies(policy, policy), player, ImitationObjective(weight))


def teach(pupil: Learner, items: Sequence[Demonstration], step: int, steps: int) -> dict:
    """Step number `step` of `steps`. Returns its metrics; raises FloatingPointError if a number of it is not finite."""
    lr = learning_rate(pupil.config.optimizer, step, math.inf) * (1 - step / steps)  # decays to nothing
    metrics = take_step(pupil, items, lr)
    if "skipped" in metrics:
        raise FloatingPointError(f"step {step + 1}: {metrics['skipped']}")
    return {pupil.player.objective.unit: len(items), "lr": lr} | metrics
