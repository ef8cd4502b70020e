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
from advgame.trainer.run.folder import EVALUATIONS, INITIAL_ATTACKS


@dataclass(frozen=True)
class Evaluations:
    """What all evaluations of a run have in common."""

    run: Path
    held_out: HeldOut
    match: Match
    embedder: Policy
    """Its hidden states tell how similar attacks are."""
    draws: Key


def evaluate_now(common: Evaluations, step: int, clock: Clock) -> dict:
    """Measures the players as they are after `step` steps; the record is added to evaluation.jsonl."""
    file = common.run / EVALUATIONS
    with clock(Stage.EVALUATE):
        initial = _read_initial(common) if step else _write_initial(common)
        start = read_records(file)[0] if step else None
        record = evaluate(common.match, common.held_out, initial, common.draws, common.embedder, start)
    collectives.from_first(lambda: append_record(file, {"step": step} | record))
    return record


def _write_initial(common: Evaluations) -> list[Game]:
    games = initial_attacks(common.match.attacker, common.match.rules, common.held_out, common.draws)

    def write() -> None:
        write_text(common.run / INITIAL_ATTACKS, json.dumps([dataclasses.asdict(game) for game in games]))

    collectives.from_first(write)
    return games


def _read_initial(common: Evaluations) -> list[Game]:
    written = json.loads((common.run / INITIAL_ATTACKS).read_text(encoding="utf-8"))
    return [game_from_dict(game) for game in written]
