"""What a player's latest steps were like: what an alarm, a stop or the limit of the next loss depends on.

It follows from the records in metrics.jsonl alone, so that a resumed run knows what an undisturbed one knows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from statistics import median

from advgame.trainer.measure.idle import Idle, reason

RECENT = 10
"""Number of losses whose median is what a loss is usually like; with fewer, no loss is too high."""


@dataclass(frozen=True)
class Lately:
    """A player's latest steps, of those in which it is trained."""

    player: str
    idle: Idle = field(default_factory=Idle)
    """Steps in a row without anything to learn from."""
    skipped: int = 0
    """Steps in a row that were skipped; idle ones do not interrupt them."""
    losses: tuple[float, ...] = ()
    """The newest, RECENT at most."""

    def and_step(self, record: dict) -> "Lately":
        """With one more step, by its record."""
        own = record[self.player]
        if "lr" not in own:  # not trained in this step
            return self
        now = replace(self, idle=self.idle.and_step(record, self.player) if "idle" in own else Idle())
        if "skipped" in own:
            return replace(now, skipped=self.skipped + 1)
        if "loss" in own:
            return replace(now, skipped=0, losses=(*self.losses, own["loss"])[-RECENT:])
        return now


def lately(player: str, records: Iterable[dict]) -> Lately:
    """At the end of these records, those of a run from its first step on."""
    return reduce(Lately.and_step, records, Lately(player))


def loss_limit(latest: Lately, max_ratio: float | None) -> float:
    """The highest loss with which the next step is taken."""
    if max_ratio is None or len(latest.losses) < RECENT:
        return math.inf
    return max_ratio * median(latest.losses)


def skip_alarms(record: dict, players: Iterable[Lately]) -> list[str]:
    """A sentence for each player whose step was skipped."""
    return [
        f"the {latest.player}'s step is skipped: {record[latest.player]['skipped']}"
        for latest in players
        if "skipped" in record[latest.player]
    ]


def idle_alarms(record: dict, players: Iterable[Lately], idle_steps: int) -> list[str]:
    """A sentence for each player that has learnt nothing for `idle_steps` steps in a row, or for a multiple of it.

    players: as they are after the step of the record.
    """
    return [
        f"the {latest.player} has learnt nothing in its last {latest.idle.steps} steps: "
        f"{reason(latest.player, latest.idle)}"
        for latest in players
        if "idle" in record[latest.player] and latest.idle.steps % idle_steps == 0
    ]


def wasted(player: str, records: list[dict]) -> str | None:
    """A sentence if the player learnt nothing in most of the steps in which it was trained."""
    trained = [record for record in records if "lr" in record[player]]
    idle = [record for record in trained if "idle" in record[player]]
    skipped = [record[player]["skipped"] for record in trained if "skipped" in record[player]]
    nothing = len(idle) + len(skipped)
    if 2 * nothing <= len(trained):
        return None
    if len(idle) >= len(skipped):
        why = reason(player, reduce(lambda total, record: total.and_step(record, player), idle, Idle()))
    else:
        why = f"steps were skipped, the last one because of {skipped[-1]}"
    return f"The {player} learnt nothing in {nothing} of {len(trained)} steps: {why}."
