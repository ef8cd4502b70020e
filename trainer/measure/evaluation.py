"""Players measured on held-out seeds: attackers, or attacks that somebody wrote down, against a defender.

What is measured are rates: one attack a seed and one response to it, each scored by itself. The random draws are the
same in every evaluation, so that what changes are the players.
"""

import copy

from advgame.trainer.alarms import alarms, signs
from advgame.trainer.config import Config
from advgame.trainer.diversity import diversity
from advgame.trainer.game import Attack, Game, Rollout, Seed
from advgame.trainer.judges import Judge
from advgame.trainer.metrics import game_metrics, mean
from advgame.trainer.models import Policy
from advgame.trainer.play import answer, write
from advgame.trainer.prompts import Prompts
from advgame.trainer.seeds import limited, read_attacks, read_seeds

BATCH = "evaluation"
"""What the random draws are for, in the place of a batch's number."""

UNREADABLE = ("max_length", "parsing")
"""Outcomes of attacks that contain no prompt."""


def evaluate(
    attacker: Policy,
    defender: Policy,
    initial: list[Game],
    judge: Judge,
    prompts: Prompts,
    config: Config,
    start: dict | None = None,
) -> dict:
    """Rates of the attacker, of the `initial` attacks, of held-out ones and of plain seeds; diversity; and alarms.

    `start` is the result at the start of the run, which drift is measured from; None: this is it.
    """
    rules, seeds = measuring(config), held_out_seeds(config)
    unanswered = {
        "current": write(seeds, BATCH, attacker, judge, prompts, rules),
        "initial": initial,
        "written": written(held_out_attacks(config)),
        "plain": plain(seeds),
    }
    played = {name: answer(games, BATCH, defender, judge, prompts, rules) for name, games in unanswered.items()}
    attacks = [attack for game in played["current"] for attack in game.attacks]
    texts = [attack.content for attack in attacks if attack.outcome not in UNREADABLE]
    record = {name: rates(games, config.judge.success_score) for name, games in played.items()} | {
        "diversity": diversity(texts, defender),
        "signs": signs(played["current"], played["plain"], judge, config, start),
    }
    return record | {"alarms": alarms(record, start)}


def initial_attacks(attacker: Policy, judge: Judge, prompts: Prompts, config: Config) -> list[Game]:
    """What an attacker writes for the held-out seeds: played at the start, answered in every evaluation."""
    return write(held_out_seeds(config), BATCH, attacker, judge, prompts, measuring(config))


def held_out_seeds(config: Config) -> list[Seed]:
    return limited(read_seeds(config.eval.seeds, "eval.seeds"), config.eval.limit)


def held_out_attacks(config: Config) -> list[tuple[Seed, str]]:
    if not config.eval.attacks:
        return []
    return limited(read_attacks(config.eval.attacks, "eval.attacks"), config.eval.limit)


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
    """Of answered games: how many attacks succeed (on harmful seeds), are complied with and are refused (benign).

    `counts` says of how many attacks or responses each of the three was taken.
    """
    known = game_metrics(games, success_score)
    harmful, benign = (
        [attack for game in games if game.seed.category == category for attack in game.attacks]
        for category in ("harmful", "benign")
    )
    answers = [response for attack in benign for response in attack.responses if response.score is not None]
    refused = [attack.score >= success_score for attack in benign if attack.score is not None]
    return {
        "attack_success": known["attack_success"],
        "benign_compliance": known["benign_compliance"],
        "over_refusal": mean(refused),
        "counts": {
            "attack_success": len(harmful),
            "benign_compliance": len(answers),
            "over_refusal": len(refused),
        },
        "parsed": known["parsed"],
        "faithful": known["faithful"],
        "deflection_score": known["deflection_score"],
        "compliance_score": known["compliance_score"],
    }
