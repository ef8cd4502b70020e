"""Valid attacks -> defender rollouts: each, and the plain seed where it is replayed, is answered D times."""

from advgame.trainer.config import DefenderConfig
from advgame.trainer.formats import DEFENDER_FORMATS, parse
from advgame.trainer.game import Attack, Game, Response, Rollout
from advgame.trainer.models import Policy
from advgame.trainer.prompts import Prompts, chat_ids
from advgame.trainer.sampler import Prompt, sample


def defend(
    games: list[Game], keys: list[tuple], policy: Policy, prompts: Prompts, config: DefenderConfig
) -> list[Game]:
    """Adds the responses; `keys` are the games' random keys."""
    requests = []
    for game, key in zip(games, keys, strict=True):
        if config.replay_seeds:
            game.plain = Attack("no_error", Rollout([], [], "", finished=True), content=game.seed.prompt)
        for a, attack in enumerate(game.prompts):
            attack.responses = [Response() for _ in range(config.samples)]
            if attack.outcome == "no_error":
                text = prompts.defender(config.format, config.instruction, attack.content)
                attack.prompt_ids = chat_ids(policy.tokenizer, text)
                requests += [Prompt(attack.prompt_ids, (*key, "defender", a, d)) for d in range(config.samples)]
    rollouts = iter(sample(policy, requests, config.sampling, "defender"))
    for attack in (attack for game in games for attack in game.prompts):
        if attack.outcome == "no_error":
            attack.responses = [read_response(next(rollouts), config.format) for _ in attack.responses]
    return games


def read_response(rollout: Rollout, format: str) -> Response:
    """Takes a rollout apart."""
    if not rollout.finished:
        return Response("max_length", rollout)
    parsed = parse(DEFENDER_FORMATS[format], rollout.text)
    if parsed is None:
        return Response("parsing", rollout)
    return Response("no_error", rollout, *parsed)
