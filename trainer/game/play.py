"""A batch of games from seeds to rewards: the stages in their order."""

from dataclasses import dataclass

from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.base.collectives import gather_from, my_share
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.attack import attack
from advgame.trainer.game.check import check
from advgame.trainer.game.defend import defend
from advgame.trainer.game.grade import grade
from advgame.trainer.judges.request import Judge
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.base import Sampler
from advgame.trainer.settings.schema import AttackerConfig, DefenderConfig, JudgeConfig


@dataclass(frozen=True)
class Rules:
    """How games are played and judged."""

    prompts: Prompts
    judge: Judge
    attacker: AttackerConfig
    defender: DefenderConfig
    judging: JudgeConfig


@dataclass(frozen=True)
class Match:
    """Who plays, and by which rules."""

    attacker: Sampler
    defender: Sampler
    rules: Rules


def play(match: Match, seeds: list[Seed], draws: Key, clock: Clock) -> list[Game]:
    """The games of all seeds, in their order.

    Each process plays its share, and receives the games of all. `draws` begins the key of every random draw: a batch,
    an evaluation and so on each have their own. Raises Outage, in every process, if one of them meets with it.
    """
    share, keys = my_share(seeds), my_share(game_keys(draws, len(seeds)))

    def play_share() -> list[Game]:
        games = write(match.rules, match.attacker, share, keys, clock)
        return answer(match.rules, match.defender, games, keys, clock)

    return gather_from(play_share)


def write(rules: Rules, attacker: Sampler, seeds: list[Seed], keys: list[Key], clock: Clock) -> list[Game]:
    """The attacker's half, in this process alone: games whose attacks are checked, but not answered."""
    with clock(Stage.ATTACK):
        games = attack(seeds, keys, attacker, rules.prompts, rules.attacker)
    if not rules.judging.faithfulness:
        return games
    with clock(Stage.CHECK):
        return check(games, rules.judge)


def answer(rules: Rules, defender: Sampler, games: list[Game], keys: list[Key], clock: Clock) -> list[Game]:
    """The defender's half, in this process alone: responses, scores and rewards, whoever wrote the attacks."""
    with clock(Stage.DEFEND):
        games = defend(games, keys, defender, rules.prompts, rules.defender)
    with clock(Stage.GRADE):
        return grade(games, rules.judge, rules.attacker, rules.defender)


def game_keys(draws: Key, games: int) -> list[Key]:
    """The random keys of a batch's games."""
    return [(*draws, b) for b in range(games)]
