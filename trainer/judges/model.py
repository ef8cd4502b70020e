"""A language model as judge, the paper's way: rubric and material in, verdict parsed out of its answer."""

import torch

from advgame.trainer.config import JudgeConfig
from advgame.trainer.judges.parsing import parse_pair, parse_score, parse_verdict
from advgame.trainer.judges.requests import Judge, JudgeRequest, Scores
from advgame.trainer.models import load_policy
from advgame.trainer.prompts import Prompts, chat_ids
from advgame.trainer.sampler import Prompt, sample


def make_model_judge(config: JudgeConfig, prompts: Prompts, seed: int) -> Judge:
    """Loads the judge's model; each verdict is sampled with randomness of its own request."""
    policy = load_policy(config.model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    policy.model.requires_grad_(False)

    def judge(requests: list[JudgeRequest]) -> list[Scores]:
        texts = [prompts.judge(r.rubric, r.category, r.query, r.candidates) for r in requests]
        sampled = sample(
            policy,
            [Prompt(chat_ids(policy.tokenizer, text), (seed, "judge", text)) for text in texts],
            config.sampling,
        )
        return [read_verdict(request, rollout.text) for request, rollout in zip(requests, sampled, strict=True)]

    return judge


def read_verdict(request: JudgeRequest, text: str) -> Scores:
    """A score per candidate out of the judge's answer."""
    if request.rubric == "faithfulness":
        verdict = parse_verdict(text)
        return (None if verdict is None else float(verdict),)
    if len(request.candidates) == 2:
        return parse_pair(text)
    return (parse_score(text),)
