"""An attacker plays against any target: a model, or one that a server has."""

from advgame.trainer.config import Config, ServerConfig
from advgame.trainer.defend import read_response
from advgame.trainer.diversity import diversity
from advgame.trainer.game import Game, Response, Seed
from advgame.trainer.judges import Judge
from advgame.trainer.models import load_policy
from advgame.trainer.play import answer, write
from advgame.trainer.prompts import Prompts
from advgame.trainer.rewards import reward
from advgame.trainer.server import TARGET, complete

BATCH = "redteam"
"""What the random draws are for, in the place of a batch's number."""


def write_attacks(
    attacker: str, seeds: list[Seed], judge: Judge, prompts: Prompts, config: Config
) -> tuple[list[Game], dict[str, float | None]]:
    """The attacks on every seed, and how varied they are; the attacker's model is let go of."""
    policy = load_policy(attacker)
    games = write(seeds, BATCH, policy, judge, prompts, config)
    texts = [a.content for game in games for a in game.attacks if a.outcome not in ("max_length", "parsing")]
    return games, diversity(texts, policy)


def answer_attacks(
    games: list[Game], target: str | ServerConfig, judge: Judge, prompts: Prompts, config: Config
) -> list[Game]:
    """The target's responses, judged."""
    if isinstance(target, str):
        return answer(games, BATCH, load_policy(target), judge, prompts, config)
    shown = []
    for attack in (attack for game in games for attack in game.attacks):
        attack.responses = [Response()]
        if attack.outcome == "no_error":
            shown.append(attack)
    texts = [prompts.defender(config.defender.format, config.defender.instruction, a.content) for a in shown]
    rollouts = complete(target, texts, config.defender.sampling, TARGET)
    for attack, rollout in zip(shown, rollouts, strict=True):
        if rollout is not None:
            attack.responses = [read_response(rollout, config.defender.format)]
    return reward(games, judge, config.attacker, config.defender)
