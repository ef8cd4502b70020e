"""A language model as judge, as in the paper: rubric and texts in, the verdict parsed out of its answer."""

from typing import get_args

import torch

from advgame.trainer.base.randomness import Key
from advgame.trainer.judges.parsing import parse_pair, parse_score, parse_verdict
from advgame.trainer.judges.request import Judge, JudgeRequest, Rubric, Scores
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.base import Request, Sampler
from advgame.trainer.rollouts.local import LocalSampler, check_context
from advgame.trainer.settings.schema import SamplingConfig


def judge_with(sampler: Sampler, sampling: SamplingConfig, prompts: Prompts, draws: Key) -> Judge:
    """A judge that asks `sampler`; the random numbers of an answer depend on `draws` and the request's text alone.

    An answer that is cut off has no verdict: what reads like one may be a part of the judge's reasoning.
    """

    def judge(requests: list[JudgeRequest]) -> list[Scores]:
        texts = [prompts.judge(r.rubric, r.category, r.query, r.candidates) for r in requests]
        answers = sampler.sample([Request(text, (*draws, "judge", text)) for text in texts], sampling)
        return [
            read_verdict(request, answer.text if answer and answer.finished else "")
            for request, answer in zip(requests, answers, strict=True)
        ]

    return judge


def load_judge(model: str, sampling: SamplingConfig, prompts: Prompts, material: int) -> Sampler:
    """A sampler of the judge's model, in this process.

    Raises ConfigError if the model's context is too short for a rubric and `material` tokens of texts to judge.
    """
    policy = load_policy(model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    policy.model.requires_grad_(False)
    longest = max(len(chat_ids(policy.tokenizer, text)) for text in every_rubric(prompts, "")) + material
    check_context(policy, longest, sampling.max_new_tokens, "judge")
    return LocalSampler(policy, "judge", sampling.precision).freeze()


def every_rubric(prompts: Prompts, query: str) -> list[str]:
    """Each rubric, asked about a query that got two empty answers."""
    return [prompts.judge(rubric, "harmful", query, ("", "")) for rubric in get_args(Rubric)]


def read_verdict(request: JudgeRequest, text: str) -> Scores:
    """A score for each candidate, out of the judge's answer."""
    if request.rubric == "faithfulness":
        verdict = parse_verdict(text)
        return (None if verdict is None else float(verdict),)
    if len(request.candidates) == 2:
        return parse_pair(text)
    return (parse_score(text),)
