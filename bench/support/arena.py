"""The arena in the benches: runs that are kept on disk, and players measured by the exact judge."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.play import Match, Rules, play
from advgame.trainer.judges.arena import judge_arena
from advgame.trainer.judges.request import Judge
from advgame.trainer.measure.evaluation import HeldOut, attack_held_out, evaluate, measuring, read_held_out
from advgame.trainer.measure.rates import rates
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.checkpoint import folder as checkpoint
from advgame.trainer.run.players import playing_models
from advgame.trainer.run.train import train
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

MEASURES = {
    "last attacker on first defender": "attack success",
    "first attacker on last defender": "attack success",
    "last attacker on last defender": "attack success",
    "held-out attacks on last defender": "attack success",
    "plain benign requests": "compliance",
    "benign requests under the last attacker": "compliance",
    "faithful attacks": "share",
}


@dataclass(frozen=True)
class Players:
    """The models of a pair."""

    attacker: str
    defender: str


FIRST = Players("arena-attacker", "arena-defender")


def play_run(run: Path, *settings: str) -> Players:
    """Plays a game by the arena's settings, but for these, on one core; a finished run is not repeated.

    Returns the players that sample at its end.
    """
    torch.set_num_threads(1)
    run.mkdir(parents=True, exist_ok=True)
    config = load_config("arena", [f"output_dir={run}", "eval.every=0", "checkpoint.every=10000", *settings])
    with (run / "log.txt").open("a") as log, redirect_stdout(log):
        train(config)
    return Players(*map(str, playing_models(checkpoint(run, config.steps), config)))


def measure(
    last: Players, first: Players = FIRST, judge: Judge = judge_arena, held_out: HeldOut | None = None
) -> dict[str, float | None]:
    """A pair of players, against each other and against the first ones; by default on the arena's held-out files.

    None where nothing is known, such as compliance under an attacker of which no attack is faithful.
    """
    config = arena()
    rules = make_rules(config, judge)
    held_out = held_out or read_held_out(config.eval)
    attacker, first_attacker, defender, first_defender = (
        LocalSampler(load_policy(source), source)
        for source in (last.attacker, first.attacker, last.defender, first.defender)
    )
    draws = (config.seed, "evaluation")
    attackers = {"current": attacker, "initial": first_attacker}
    attacks = {name: attack_held_out(one, rules, held_out, draws) for name, one in attackers.items()}
    record = evaluate(Match(attacker, defender, rules), held_out, attacks, draws, defender.policy)
    against_first = Match(attacker, first_defender, measuring(rules, held_out.greedy))
    games = play(against_first, held_out.seeds, (config.seed, "first"), Clock())
    shares = [
        rates(games, config.judge.success_score)["attack_success"].share,
        *(record[asked]["attack_success"]["share"] for asked in ("initial", "current", "written")),
        *(record[asked]["benign_compliance"]["share"] for asked in ("plain", "current")),
        record["current"]["faithful"]["share"],
    ]
    return dict(zip(MEASURES, shares, strict=True))


def arena() -> Config:
    """The arena's settings, with all that is held out."""
    return load_config("arena", ["eval.limit=null"])


def make_rules(config: Config, judge: Judge = judge_arena) -> Rules:
    return Rules(Prompts(config.templates), judge, config.attacker, config.defender, config.judge)
