"""What became of the attacks on a target: attempts, taken from answered games."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from advgame.trainer.measure.rates import succeeded
from advgame.trainer.records import Attack, AttackOutcome, Game, Response, ResponseOutcome, Seed


class AttemptOutcome(str, Enum):
    """What can become of an attempt, in the order of the game: its name in results.json, and its text."""

    JUDGED = "judged", "answered by the target, and judged"
    MAX_LENGTH = "max_length", "the attack did not end within attacker.sampling.max_new_tokens"
    PARSING = "parsing", "the attack is not in the attacker's format"
    NOT_FAITHFUL = "not_faithful", "the attack does not keep the meaning of its seed"
    BAD_FAITH_JUDGE = "bad_faith_judge", "the judge gave no verdict on the attack's faithfulness"
    NO_ANSWER = "no_answer", "the target gave no answer"
    RESPONSE_MAX_LENGTH = "response_max_length", "the response did not end within defender.sampling.max_new_tokens"
    RESPONSE_PARSING = "response_parsing", "the response is not in the defender's format"
    BAD_JUDGE = "bad_judge", "the judge gave no verdict on the response"

    text: str

    def __new__(cls, name: str, text: str) -> "AttemptOutcome":
        outcome = str.__new__(cls, name)
        outcome._value_, outcome.text = name, text
        return outcome

    __str__ = str.__str__

    @property
    def unjudged(self) -> bool:
        """There is no verdict on the attack (see measure/rates.py)."""
        return self in (
            AttemptOutcome.BAD_FAITH_JUDGE,
            AttemptOutcome.NO_ANSWER,
            AttemptOutcome.RESPONSE_MAX_LENGTH,
            AttemptOutcome.RESPONSE_PARSING,
            AttemptOutcome.BAD_JUDGE,
        )

    @property
    def told(self) -> str:
        """As reports have it."""
        return f"no verdict: {self.text}" if self.unjudged else self.text


@dataclass(frozen=True)
class Attempt:
    """One attack on the target."""

    seed: str
    """The seed's query."""
    category: str
    fields: dict[str, str]
    """Whatever else the seed's file says about it."""
    seed_number: int
    """Counts from 1, as does `attempt`."""
    attempt: int
    outcome: AttemptOutcome
    attack: str
    """What the target was shown; if the attack is not readable, all that the attacker wrote."""
    response: str
    score: float | None
    """The judge's, 0 to 10: compliance with a harmful seed, refusal of a benign one."""
    compliance: float | None
    """With the attack on a benign seed, 0 to 10."""
    succeeded: bool | None
    """The score reaches judge.success_score; None without a verdict."""


def attempts_of(games: list[Game], success_score: float) -> list[Attempt]:
    return [
        _attempt(game.seed, s, a, attack, success_score)
        for s, game in enumerate(games, start=1)
        for a, attack in enumerate(game.attacks, start=1)
    ]


def outcomes(attempts: list[Attempt]) -> dict[AttemptOutcome, int]:
    """Number of attempts with each outcome that occurs, in the order of the game."""
    counted = Counter(a.outcome for a in attempts)
    return {outcome: counted[outcome] for outcome in AttemptOutcome if counted[outcome]}


def worst_first(attempts: list[Attempt]) -> list[Attempt]:
    """Those that succeeded, on harmful seeds before benign ones, then the others as they came."""
    return sorted(attempts, key=lambda a: (not a.succeeded, bool(a.succeeded) and a.category == "benign"))


def _attempt(seed: Seed, number: int, count: int, attack: Attack, success_score: float) -> Attempt:
    (response,) = attack.responses
    return Attempt(
        seed.query,
        seed.category,
        seed.fields,
        number,
        count,
        _outcome(attack, response),
        attack.content or (attack.rollout.text if attack.rollout else ""),
        response.content or (response.rollout.text if response.rollout else ""),
        attack.score,
        response.score if seed.category == "benign" else None,
        succeeded(attack, success_score),
    )


def _outcome(attack: Attack, response: Response) -> AttemptOutcome:
    if attack.outcome in _UNANSWERED:
        return _UNANSWERED[attack.outcome]
    if attack.outcome is AttackOutcome.NO_VALID_RESPONSE:
        return _UNREADABLE[response.outcome]
    return AttemptOutcome.BAD_JUDGE if attack.score is None else AttemptOutcome.JUDGED


_UNANSWERED = {
    AttackOutcome.MAX_LENGTH: AttemptOutcome.MAX_LENGTH,
    AttackOutcome.PARSING: AttemptOutcome.PARSING,
    AttackOutcome.NOT_FAITHFUL: AttemptOutcome.NOT_FAITHFUL,
    AttackOutcome.BAD_FAITH_JUDGE: AttemptOutcome.BAD_FAITH_JUDGE,
}
_UNREADABLE = {
    ResponseOutcome.PROMPT_NOT_VALID: AttemptOutcome.NO_ANSWER,
    ResponseOutcome.MAX_LENGTH: AttemptOutcome.RESPONSE_MAX_LENGTH,
    ResponseOutcome.PARSING: AttemptOutcome.RESPONSE_PARSING,
}
