"""Games, from seeds to rewards: the arrows of the game in their order."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from advgame.trainer.attack import attack
from advgame.trainer.config import Config
from advgame.trainer.defend import defend
from advgame.trainer.distributed import gather, my_share
from advgame.trainer.faithfulness import judge_faithfulness
from advgame.trainer.game import Game, Seed
from advgame.trainer.judges import Judge
from advgame.trainer.models import Policy
from advgame.trainer.prompts import Prompts
from advgame.trainer.rewards import reward

Stage = Callable[[str], AbstractContextManager]
"""Entered with the name of what is being done, while it is done."""


def play(
    seeds: list[Seed],
    batch: int | str,
    attacker: Policy,
    defender: Policy,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    stage: Stage = nullcontext,
) -> list[Game]:
    """Plays this process's share of the seeds and returns the games of all processes, in their order.

    With config.seed, `batch` decides all random draws.
    """
    keys = my_share([(config.seed, batch, b) for b in range(len(seeds))])
    with stage("attacker writes"):
        games = attack(my_share(seeds), keys, attacker, prompts, config.attacker)
    if config.judge.faithfulness:
        with stage("judge checks faithfulness"):
            games = judge_faithfulness(games, judge)
    return gather(_answer(games, keys, defender, judge, prompts, config, stage))


def answer(
    games: list[Game],
    batch: int | str,
    defender: Policy,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    stage: Stage = nullcontext,
) -> list[Game]:
    """The same from the defender on, for attacks that are already there."""
    keys = my_share([(config.seed, batch, b) for b in range(len(games))])
    return gather(_answer(my_share(games), keys, defender, judge, prompts, config, stage))


def _answer(
    games: list[Game],
    keys: list[tuple],
    defender: Policy,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    stage: Stage,
) -> list[Game]:
    with stage("defender answers"):
        games = defend(games, keys, defender, prompts, config.defender)
    with stage("judge scores"):
        return reward(games, judge, config.attacker, config.defender)
