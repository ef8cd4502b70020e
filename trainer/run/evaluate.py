"""Evaluations during a run, and the files that they leave in its folder."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.base.files import append_record, read_records, write_text
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Match
from advgame.trainer.measure.evaluation import HeldOut, evaluate, initial_attacks
from advgame.trainer.models.policy import Policy
from advgame.trainer.records import Game, game_from_dict


@dataclass(frozen=True)
class Evaluations:
    """What all evaluations of a run have in common."""

    run: Path
    held_out: HeldOut
    match: Match
    embedder: Policy
    """Its hidden states tell how similar attacks are."""
    draws: Key

    @property
    def records(self) -> Path:
        return self.run / "evaluation.jsonl"

    @property
    def initial_attacks(self) -> Path:
        """The attacks of the first attacker, which the defender answers in every evaluation."""
        return self.run / "initial-attacks.json"


def evaluate_now(evaluations: Evaluations, step: int, clock: Clock) -> dict:
    """Measures the players as they are after `step` steps; the record is added to evaluation.jsonl."""
    common = evaluations
    with clock(Stage.EVALUATE):
        initial = _read_initial(common) if step else _write_initial(common)
        start = read_records(common.records)[0] if step else None
        record = evaluate(common.match, common.held_out, initial, common.draws, common.embedder, start)
    if collectives.rank() == 0:
        append_record(common.records, {"step": step} | record)
    return record


def _write_initial(common: Evaluations) -> list[Game]:
    games = initial_attacks(common.match.attacker, common.match.rules, common.held_out, common.draws)
    if collectives.rank() == 0:
        write_text(common.initial_attacks, json.dumps([dataclasses.asdict(game) for game in games]))
    return games


def _read_initial(common: Evaluations) -> list[Game]:
    return [game_from_dict(game) for game in json.loads(common.initial_attacks.read_text(encoding="utf-8"))]
