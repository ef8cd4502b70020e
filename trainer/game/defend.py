"""Attacks -> responses: the defender answers each attack that it is shown D times, and the plain seeds if asked to."""

from dataclasses import replace

from advgame.trainer.base.randomness import Key
from advgame.trainer.prompts.formats import DEFENDER_FORMATS, parse
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Attack, Game, Response, Rollout, written_attack
from advgame.trainer.rollouts.base import Request, Sampler
from advgame.trainer.settings.schema import DefenderConfig


def defend(
    games: list[Game], keys: list[Key], defender: Sampler, prompts: Prompts, config: DefenderConfig
) -> list[Game]:
    """The games with responses; `keys` are their random keys."""
    if config.replay_seeds:
        games = [replace(game, plain=written_attack(game.seed.query)) for game in games]
    requests = [
        Request(text, (*key, "defender", a, d))
        for game, key in zip(games, keys, strict=True)
        for a, attack in enumerate(game.shown)
        if attack.outcome.shown
        for text in [prompts.defender(config.format, config.instruction, attack.content)]
        for d in range(config.samples)
    ]
    rollouts = iter(defender.sample(requests, config.sampling))

    def answered(attack: Attack) -> Attack:
        samples = [next(rollouts) if attack.outcome.shown else None for _ in range(config.samples)]
        return replace(attack, responses=tuple(read_response(sample, config.format) for sample in samples))

    return [
        replace(game, attacks=tuple(map(answered, game.attacks)), plain=game.plain and answered(game.plain))
        for game in games
    ]


def read_response(rollout: Rollout | None, format: str) -> Response:
    """Takes a sample apart, if there is one and it is complete."""
    return Response(rollout, parse(DEFENDER_FORMATS[format], rollout.text) if rollout and rollout.finished else None)
