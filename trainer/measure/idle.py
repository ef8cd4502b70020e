"""Steps that taught a player nothing, and what to do about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advgame.trainer.game.pair import attacker_pairs, defender_pairs
from advgame.trainer.records import AttackOutcome, Game, Item, ResponseOutcome, ScoredGroup

NO_ADVANTAGE = 1e-9
"""Equal rewards differ from their mean by rounding; judges' scores are rounded to four places."""

Stages = tuple[Mapping[Any, tuple[str, str]], ...]
"""The outcomes by which a stage of the game ends samples: what happened to them, and what to do."""

_JUDGE = "look at judge.model or judge.server, its judge.sampling.max_new_tokens, and the templates"

ATTACKS: Stages = (
    {
        AttackOutcome.MAX_LENGTH: ("attacks did not end in time", "raise attacker.sampling.max_new_tokens"),
        AttackOutcome.PARSING: ("attacks are not in attacker.format", "choose another format, or change the templates"),
    },
    {AttackOutcome.BAD_FAITH_JUDGE: ("attacks got no verdict on their faithfulness", _JUDGE)},
    {
        AttackOutcome.NOT_FAITHFUL: (
            "attacks do not keep the meaning of their seeds",
            "take a stronger attacker.model, or set judge.faithfulness=false",
        )
    },
    {AttackOutcome.BAD_ATT_JUDGE: ("attacks got no score", _JUDGE)},
)
RESPONSES: Stages = (
    {
        ResponseOutcome.MAX_LENGTH: ("responses did not end in time", "raise defender.sampling.max_new_tokens"),
        ResponseOutcome.PARSING: (
            "responses are not in defender.format",
            "choose another format, or ask for it in defender.instruction",
        ),
    },
    {ResponseOutcome.BAD_DEF_JUDGE: ("responses got no score", _JUDGE)},
)


@dataclass(frozen=True)
class Idle:
    """A player's steps without anything to learn from."""

    steps: int = 0
    min_gap: int = 0
    """Those of them in which rewards differed, but by less than min_gap."""
    attacks: Counter[str] = field(default_factory=Counter)
    """Outcomes in these steps."""
    responses: Counter[str] = field(default_factory=Counter)

    def and_step(self, record: dict, player: str) -> "Idle":
        """With one more step, by its record."""
        return Idle(
            self.steps + 1,
            self.min_gap + (record[player]["idle"] == "min_gap"),
            self.attacks + Counter(record["game"]["prompt_outcomes"]),
            self.responses + Counter(record["game"]["response_outcomes"]),
        )


def why_idle(player: str, items: Sequence[Item], games: list[Game]) -> str | None:
    """None if an item of the player carries a gradient; else what a record calls the reason: min_gap or rewards."""
    if any(map(carries_gradient, items)):
        return None
    pairs = attacker_pairs(games) if player == "attacker" else defender_pairs(games)
    return "min_gap" if pairs and not items else "rewards"


def carries_gradient(item: Item) -> bool:
    """True for pairs, and for groups with an advantage."""
    if not isinstance(item, ScoredGroup):
        return True
    return any(valid and abs(a) > NO_ADVANTAGE for a, valid in zip(item.advantages, item.valid, strict=True))


def reason(player: str, idle: Idle) -> str:
    """Why the player had nothing to learn from, and the setting to look at.

    The stage of the game to blame is the narrowest: it lets the smallest share pass of the samples that come to it.
    """
    if 2 * idle.min_gap > idle.steps:
        return f"rewards differ by less than {player}.min_gap; lower it"
    share, sentence = max(
        *_narrow(idle.attacks, list(AttackOutcome), ATTACKS),
        *_narrow(idle.responses, list(ResponseOutcome), RESPONSES),
    )
    if 2 * share > 1:
        return sentence
    return (
        f"samples of the same prompt say the same or get equal rewards; raise {player}.sampling.temperature or "
        f"{player}.samples, or look at {player}.judge"
    )


def _narrow(counts: Counter[str], order: list, stages: Stages) -> list[tuple[float, str]]:
    """For each stage: the share of the samples that came to it and ended there, and a sentence about most of these."""
    found = []
    for stage in stages:
        first, worst = next(iter(stage)), max(stage, key=lambda outcome: counts[outcome.value])
        reached = sum(counts[outcome.value] for outcome in order[order.index(first) :])
        ended = sum(counts[outcome.value] for outcome in stage)
        what, remedy = stage[worst]
        sentence = f"{counts[worst.value]} of {reached} {what} ({worst.value}); {remedy}"
        found.append((ended / (reached + 1), sentence))  # + 1: a handful weighs less than many
    return found
