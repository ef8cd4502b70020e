"""The records that flow through a game, from seed to training item. All are frozen: a stage returns new ones.

Each field has one writer, named in brackets: a stage of game/. Outcomes are not stored but follow from the fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

Category = Literal["harmful", "benign"]


class AttackOutcome(str, Enum):
    """What became of an attack, in the order of the game."""

    MAX_LENGTH = "max_length"
    """The sample did not end within max_new_tokens."""
    PARSING = "parsing"
    """It is not in the attacker's format."""
    BAD_FAITH_JUDGE = "bad_faith_judge"
    """The judge gave no verdict on its faithfulness."""
    NOT_FAITHFUL = "not_faithful"
    NO_VALID_RESPONSE = "no_valid_response"
    """No response to it is complete and in the defender's format."""
    BAD_ATT_JUDGE = "bad_att_judge"
    """The judge gave no score for the response that counts."""
    NO_ERROR = "no_error"

    __str__ = str.__str__

    @property
    def readable(self) -> bool:
        """The attack is complete and in the attacker's format."""
        return self not in (AttackOutcome.MAX_LENGTH, AttackOutcome.PARSING)

    @property
    def shown(self) -> bool:
        """The defender may see it: it is readable, and nothing speaks against its faithfulness."""
        return self.readable and self not in (AttackOutcome.BAD_FAITH_JUDGE, AttackOutcome.NOT_FAITHFUL)

    @property
    def valid(self) -> bool:
        return self is AttackOutcome.NO_ERROR

    @property
    def penalised(self) -> bool:
        """The attacker is to blame, and its reward says so."""
        return not self.readable or self is AttackOutcome.NOT_FAITHFUL


class ResponseOutcome(str, Enum):
    """What became of a response, in the order of the game."""

    PROMPT_NOT_VALID = "prompt_not_valid"
    """There is no response: the attack was not shown, or a server did not answer."""
    MAX_LENGTH = "max_length"
    """The sample did not end within max_new_tokens."""
    PARSING = "parsing"
    """It is not in the defender's format."""
    BAD_DEF_JUDGE = "bad_def_judge"
    """The judge gave no score."""
    NO_ERROR = "no_error"

    __str__ = str.__str__

    @property
    def readable(self) -> bool:
        """The response is complete and in the defender's format."""
        return self in (ResponseOutcome.NO_ERROR, ResponseOutcome.BAD_DEF_JUDGE)

    @property
    def valid(self) -> bool:
        return self is ResponseOutcome.NO_ERROR

    @property
    def penalised(self) -> bool:
        """The defender is to blame, and its reward says so."""
        return self in (ResponseOutcome.MAX_LENGTH, ResponseOutcome.PARSING)


class Verdict(str, Enum):
    """What the faithfulness judge says of an attack."""

    UNCHECKED = "unchecked"
    FAITHFUL = "faithful"
    UNFAITHFUL = "unfaithful"
    MISSING = "missing"
    """The judge was asked, but gave no usable answer."""


@dataclass(frozen=True)
class Seed:
    """A query that a game starts from."""

    query: str
    category: Category
    fields: dict[str, str] = field(default_factory=dict)
    """Whatever else its file says about it (its language, its source); reports can be split by these."""


@dataclass(frozen=True)
class Rollout:
    """One sample of a model."""

    prompt_ids: list[int]
    """The model's input tokens."""
    token_ids: list[int]
    """The sampled tokens, including the end-of-sequence token. Servers give neither prompt_ids nor token_ids."""
    logprobs: list[float]
    """Log-prob of each token under the sampling model, at temperature 1 and before truncation."""
    text: str
    """token_ids decoded, without special tokens."""
    finished: bool
    """True if a stop token was sampled before max_new_tokens."""
    version: int = 0
    """The optimiser step whose weights were sampled."""


@dataclass(frozen=True)
class Parsed:
    """A sample taken apart by its player's format."""

    think: str
    content: str
    """What the other side gets to see."""


@dataclass(frozen=True)
class Response:
    """One answer of the defender to an attack."""

    rollout: Rollout | None = None
    """None if the defender never saw the attack, or its server did not answer. [defend]"""
    parsed: Parsed | None = None
    """None if the sample is incomplete or not in the defender's format. [defend]"""
    judged: bool = False
    """True once the judge was asked for a score. [grade]"""
    score: float | None = None
    """The judge's, 0 to 10. [grade]"""
    reward: float | None = None
    """The score, patched for the outcome; None takes no part in training. [grade]"""

    @property
    def content(self) -> str:
        return self.parsed.content if self.parsed else ""

    @property
    def outcome(self) -> ResponseOutcome:
        if self.rollout is None:
            return ResponseOutcome.PROMPT_NOT_VALID
        if not self.rollout.finished:
            return ResponseOutcome.MAX_LENGTH
        if self.parsed is None:
            return ResponseOutcome.PARSING
        if self.judged and self.score is None:
            return ResponseOutcome.BAD_DEF_JUDGE
        return ResponseOutcome.NO_ERROR


@dataclass(frozen=True)
class Attack:
    """One rewrite of a seed by the attacker, or by whoever wrote it, and the responses to it."""

    rollout: Rollout | None
    """None if no model wrote it. [attack]"""
    parsed: Parsed | None
    """None if the sample is incomplete or not in the attacker's format. [attack]"""
    verdict: Verdict = Verdict.UNCHECKED
    """Of the faithfulness judge. [check]"""
    responses: tuple[Response, ...] = ()
    """[defend; their scores and rewards: grade]"""
    judged: bool = False
    """True once the judge was asked for a score. [grade]"""
    score: float | None = None
    """The judge's for the response that counts, 0 to 10. [grade]"""
    reward: float | None = None
    """The score, patched for the outcome; None takes no part in training. [grade]"""

    @property
    def content(self) -> str:
        """What the defender is shown."""
        return self.parsed.content if self.parsed else ""

    @property
    def outcome(self) -> AttackOutcome:
        if self.rollout and not self.rollout.finished:
            return AttackOutcome.MAX_LENGTH
        if self.parsed is None:
            return AttackOutcome.PARSING
        if self.verdict is Verdict.MISSING:
            return AttackOutcome.BAD_FAITH_JUDGE
        if self.verdict is Verdict.UNFAITHFUL:
            return AttackOutcome.NOT_FAITHFUL
        if self.responses and not any(response.outcome.readable for response in self.responses):
            return AttackOutcome.NO_VALID_RESPONSE
        if self.judged and self.score is None:
            return AttackOutcome.BAD_ATT_JUDGE
        return AttackOutcome.NO_ERROR


@dataclass(frozen=True)
class Game:
    """All that follows from one seed."""

    seed: Seed
    attacks: tuple[Attack, ...]
    plain: Attack | None = None
    """The seed itself, shown to the defender as it is; None unless seeds are replayed. [defend]"""

    @property
    def shown(self) -> tuple[Attack, ...]:
        """All that the defender may be shown: the attacks, and the plain seed if it is replayed."""
        return self.attacks if self.plain is None else (*self.attacks, self.plain)


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, the first of them preferred."""

    chosen: Rollout
    rejected: Rollout

    @property
    def rollouts(self) -> Sequence[Rollout]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class ScoredGroup:
    """All completions of one prompt."""

    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]
    """Of each completion: its reward minus the mean reward of the player's samples in the step."""
    valid: tuple[bool, ...]
    """False if there is no reward: such a completion is counted, but has no gradient."""


@dataclass(frozen=True)
class Demonstration:
    """A completion that somebody wrote, to be imitated."""

    prompt_ids: list[int]
    token_ids: list[int]

    @property
    def rollouts(self) -> Sequence[Rollout]:
        """As if it had been sampled, but without log-probs."""
        return (Rollout(self.prompt_ids, self.token_ids, [], "", finished=True),)


Item = Pair | ScoredGroup | Demonstration
"""What a player learns from. All its rollouts continue the same prompt."""


def written_attack(content: str) -> Attack:
    """An attack that no model wrote."""
    return Attack(None, Parsed("", content))


def game_from_dict(data: dict) -> Game:
    """The inverse of dataclasses.asdict."""
    plain = _attack_from_dict(data["plain"]) if data["plain"] else None
    return Game(Seed(**data["seed"]), tuple(_attack_from_dict(attack) for attack in data["attacks"]), plain)


def _attack_from_dict(data: dict) -> Attack:
    responses = tuple(Response(**response | _sample_from_dict(response)) for response in data["responses"])
    verdict = Verdict(data["verdict"])
    return Attack(**data | _sample_from_dict(data) | {"verdict": verdict, "responses": responses})


def _sample_from_dict(data: dict) -> dict:
    rollout, parsed = data["rollout"], data["parsed"]
    return {"rollout": rollout and Rollout(**rollout), "parsed": parsed and Parsed(**parsed)}
