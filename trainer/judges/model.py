"""A language model as judge, the paper's way: rubric and material in, verdict parsed out of its answer."""

from collections.abc import Callable
from functools import partial
from typing import get_args

import torch

from advgame.trainer.config import JudgeConfig
from advgame.trainer.game import Rollout
from advgame.trainer.judges.parsing import parse_pair, parse_score, parse_verdict
from advgame.trainer.judges.requests import Judge, JudgeRequest, Rubric, Scores
from advgame.trainer.models import load_policy
from advgame.trainer.prompts import Prompts, chat_ids
from advgame.trainer.sampler import Prompt, check_context, sample
from advgame.trainer.server import check_server, complete

Complete = Callable[[list[str]], list[Rollout | None]]
"""An answer per text, in order; None where there is none."""


def make_model_judge(config: JudgeConfig, prompts: Prompts, seed: int, material: int) -> Judge:
    """The model is loaded here, or behind a server. `material` is how many tokens there can be to judge at once."""
    answer = _behind_server(config) if config.kind == "server" else _loaded(config, prompts, seed, material)

    def judge(requests: list[JudgeRequest]) -> list[Scores]:
        texts = [prompts.judge(r.rubric, r.category, r.query, r.candidates) for r in requests]
        answers = [rollout.text if rollout else "" for rollout in answer(texts)]
        return [read_verdict(*pair) for pair in zip(requests, answers, strict=True)]

    return judge


def read_verdict(request: JudgeRequest, text: str) -> Scores:
    """A score per candidate out of the judge's answer."""
    if request.rubric == "faithfulness":
        verdict = parse_verdict(text)
        return (None if verdict is None else float(verdict),)
    if len(request.candidates) == 2:
        return parse_pair(text)
    return (parse_score(text),)


def _loaded(config: JudgeConfig, prompts: Prompts, seed: int, material: int) -> Complete:
    """Each answer is sampled with randomness of its own text. Raises ConfigError when the model is too short for it."""
    policy = load_policy(config.model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    policy.model.requires_grad_(False)
    rubrics = [prompts.judge(rubric, "harmful", "", ("", "")) for rubric in get_args(Rubric)]
    longest = max(len(chat_ids(policy.tokenizer, text)) for text in rubrics) + material
    check_context(policy, longest, config.sampling.max_new_tokens, "judge")

    def answer(texts: list[str]) -> list[Rollout]:
        inputs = [Prompt(chat_ids(policy.tokenizer, text), (seed, "judge", text)) for text in texts]
        return sample(policy, inputs, config.sampling, "judge")

    return answer


def _behind_server(config: JudgeConfig) -> Complete:
    check_server(config.server)
    return partial(complete, config.server, sampling=config.sampling)
