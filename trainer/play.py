"""One batch of games, from seeds to rewards: the arrows of the game in their order."""

from advgame.trainer.attack import attack
from advgame.trainer.config import Config, PlayerConfig
from advgame.trainer.console import Progress
from advgame.trainer.defend import defend
from advgame.trainer.distributed import gather, my_share
from advgame.trainer.faithfulness import judge_faithfulness
from advgame.trainer.game import Game, Seed
from advgame.trainer.judges import Judge
from advgame.trainer.models import Policy
from advgame.trainer.players import Player
from advgame.trainer.prompts import Prompts
from advgame.trainer.rewards import reward


def play(
    seeds: list[Seed],
    batch: int,
    attacker: Player,
    defender: Player,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    progress: Progress,
) -> list[Game]:
    """Plays this process's share of the batch's seeds and returns the games of all processes, in their order."""
    keys = my_share([(config.seed, batch, b) for b in range(len(seeds))])
    with progress.stage("attacker writes"):
        games = attack(my_share(seeds), keys, sampler(attacker, config.attacker), prompts, config.attacker)
    if config.judge.faithfulness:
        with progress.stage("judge checks faithfulness"):
            games = judge_faithfulness(games, judge)
    with progress.stage("defender answers"):
        games = defend(games, keys, sampler(defender, config.defender), prompts, config.defender)
    with progress.stage("judge scores"):
        games = reward(games, judge, config.attacker, config.defender)
    return gather(games)


def sampler(player: Player, config: PlayerConfig) -> Policy:
    return player.ema if config.sample_from == "ema" else player.policy
