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
    """The games of all seeds, in their order. With config.seed, `batch` decides all random draws.

    Every process plays its share, and returns the games of all; so do the two halves below.
    """
    games = write(seeds, batch, attacker, judge, prompts, config, stage)
    return answer(games, batch, defender, judge, prompts, config, stage)


def write(
    seeds: list[Seed],
    batch: int | str,
    attacker: Policy,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    stage: Stage = nullcontext,
) -> list[Game]:
    """The attacker's half: games with attacks, not yet answered."""
    with stage("attacker writes"):
        games = attack(my_share(seeds), _keys(seeds, batch, config), attacker, prompts, config.attacker)
    if config.judge.faithfulness:
        with stage("judge checks faithfulness"):
            games = judge_faithfulness(games, judge)
    return gather(games)


def answer(
    games: list[Game],
    batch: int | str,
    defender: Policy,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    stage: Stage = nullcontext,
) -> list[Game]:
    """The defender's half, down to the rewards, for attacks from wherever."""
    with stage("defender answers"):
        games = defend(my_share(games), _keys(games, batch, config), defender, prompts, config.defender)
    with stage("judge scores"):
        return gather(reward(games, judge, config.attacker, config.defender))


def _keys(items: list, batch: int | str, config: Config) -> list[tuple]:
    """Random keys of this process's share of the items."""
    return my_share([(config.seed, batch, b) for b in range(len(items))])
