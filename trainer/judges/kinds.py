"""The judge of each judge.kind."""

from advgame.trainer.judges.arena import judge_arena, noisy
from advgame.trainer.judges.model import every_rubric, judge_with, load_judge
from advgame.trainer.judges.phrases import judge_by_phrases
from advgame.trainer.judges.request import Judge
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.server import ServerSampler, check_server, filler
from advgame.trainer.settings.schema import JudgeConfig


def make_judge(config: JudgeConfig, prompts: Prompts, seed: int, material: int) -> Judge:
    """A judge that is ready for requests: its model is loaded, or its server answers.

    seed: the run's. material: largest number of tokens that there can be to judge at once.
    """
    if config.kind == "phrases":
        return judge_by_phrases
    if config.kind == "arena":
        return noisy(judge_arena, config.offset, config.noise, seed)
    if config.kind == "server":
        check_server(config.server, config.sampling, max(every_rubric(prompts, filler(material)), key=len))
        return judge_with(ServerSampler(config.server), config.sampling, prompts, (seed,))
    sampler = load_judge(str(config.model), config.sampling, prompts, material)
    return judge_with(sampler, config.sampling, prompts, (seed,))
