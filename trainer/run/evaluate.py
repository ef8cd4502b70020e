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
from advgame.trainer.measure.evaluation import HeldOut, attack_held_out, evaluate
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
    file, match = common.run / EVALUATIONS, common.match
    with clock(Stage.EVALUATE):
        current = attack_held_out(match.attacker, match.rules, common.held_out, common.draws)
        if step == 0:
            collectives.from_first(lambda: _write_initial(common.run, current))
            initial, start = current, None
        else:
            initial, start = _read_initial(common.run), read_records(file)[0]
        attacks = {"current": current, "initial": initial}
        record = evaluate(match, common.held_out, attacks, common.draws, common.embedder, start)
    collectives.from_first(lambda: append_record(file, {"step": step} | record))
    return record


def _write_initial(run: Path, games: list[Game]) -> None:
    write_text(run / INITIAL_ATTACKS, json.dumps([dataclasses.asdict(game) for game in games]))


def _read_initial(run: Path) -> list[Game]:
    written = json.loads((run / INITIAL_ATTACKS).read_text(encoding="utf-8"))
    return [game_from_dict(game) for game in written]
