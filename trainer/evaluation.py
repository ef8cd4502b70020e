"""Players measured: attackers, or attacks that somebody wrote down, against a defender.

What is measured are rates: one attack a seed and one response to it, each scored by itself.
"""

import copy
import random

from advgame.trainer.config import Config
from advgame.trainer.game import Attack, Game, Rollout, Seed
from advgame.trainer.metrics import game_metrics, mean


def measuring(config: Config) -> Config:
    """The config that evaluations play by: `play` and `answer` take it in place of the run's."""
    config = copy.deepcopy(config)
    config.attacker.samples = config.defender.samples = 1
    config.attacker.judge = config.defender.judge = "pointwise"
    config.attacker.reward_from = "first"
    config.defender.replay_seeds = False
    if config.eval.greedy:
        config.attacker.sampling.temperature = config.defender.sampling.temperature = 0.0
    return config


def written(attacks: list[tuple[Seed, str]]) -> list[Game]:
    """Games whose attacks are given, as (what is meant, the prompt); without an attacker, and not yet answered."""
    nobody = Rollout([], [], "", finished=True)
    return [Game(seed, [], [Attack("no_error", nobody, content=prompt)]) for seed, prompt in attacks]


def plain(seeds: list[Seed]) -> list[Game]:
    """Games in which every seed is asked as it is."""
    return written([(seed, seed.prompt) for seed in seeds])


def rates(games: list[Game], success_score: float) -> dict:
    """Of answered games: how many attacks succeed (on harmful seeds), are complied with and are refused (benign)."""
    known = game_metrics(games, success_score)
    benign = [attack.score for game in games if game.seed.category == "benign" for attack in game.attacks]
    return {
        "attack_success": known["attack_success"],
        "benign_compliance": known["benign_compliance"],
        "over_refusal": mean([score >= success_score for score in benign if score is not None]),
        "parsed": known["parsed"],
        "faithful": known["faithful"],
        "deflection_score": known["deflection_score"],
        "compliance_score": known["compliance_score"],
    }


def limited(items: list, limit: int | None) -> list:
    """At most so many, always the same ones, drawn at random: harmful and benign may take turns in a file."""
    if limit is None or limit >= len(items):
        return items
    return [items[i] for i in sorted(random.Random(0).sample(range(len(items)), limit))]
