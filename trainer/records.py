"""The records that flow through a game, and nothing else: what every stage takes and returns."""

from dataclasses import dataclass, field
from typing import Literal

Category = Literal["harmful", "benign"]

PromptOutcome = Literal[
    "max_length",
    "parsing",
    "bad_faith_judge",
    "not_faithful",
    "no_valid_response",
    "bad_att_judge",
    "no_error",
]
ResponseOutcome = Literal["prompt_not_valid", "max_length", "parsing", "bad_def_judge", "no_error"]


@dataclass(frozen=True)
class Seed:
    """A query that a game starts from."""

    prompt: str
    category: Category
    fields: dict[str, str] = field(default_factory=dict)
    """Whatever else its file says of it (its language, its source): reports are split by these."""


@dataclass(frozen=True)
class Rollout:
    """One sampled sequence."""

    token_ids: list[int]
    """The sampled tokens, the end-of-sequence token included."""
    logprobs: list[float]
    """Of each token under the sampling model, at temperature 1 and before truncation."""
    text: str
    """token_ids decoded, special tokens left out."""
    finished: bool
    """It ended by itself, before max_new_tokens."""


@dataclass
class Response:
    """One answer y of the defender to an attack."""

    outcome: ResponseOutcome = "prompt_not_valid"
    rollout: Rollout | None = None
    """None when the prompt was not valid, so that the defender never saw it."""
    think: str = ""
    content: str = ""
    score: float | None = None
    """The judge's, 0 to 10; None when there is none."""
    reward: float | None = None
    """The score, patched for the outcome; None takes no part in training."""


@dataclass
class Attack:
    """One rewrite x of a seed by the attacker, and the defender's responses to it."""

    outcome: PromptOutcome
    rollout: Rollout
    think: str = ""
    content: str = ""
    """The prompt that the defender is shown."""
    prompt_ids: list[int] = field(default_factory=list)
    """The defender's input tokens; empty when the prompt was not valid."""
    responses: list[Response] = field(default_factory=list)
    score: float | None = None
    reward: float | None = None


@dataclass
class Game:
    """All that follows from one seed."""

    seed: Seed
    prompt_ids: list[int]
    """The attacker's input tokens."""
    attacks: list[Attack]
    plain: Attack | None = None
    """The seed itself as one more prompt of the defender, with an empty rollout; None where seeds are not replayed."""

    @property
    def prompts(self) -> list[Attack]:
        """All that the defender may be shown."""
        return self.attacks if self.plain is None else [*self.attacks, self.plain]


def game_from_dict(data: dict) -> Game:
    """The inverse of dataclasses.asdict."""
    attacks = [_attack_from_dict(attack) for attack in data["attacks"]]
    plain = _attack_from_dict(data["plain"]) if data["plain"] else None
    return Game(Seed(**data["seed"]), data["prompt_ids"], attacks, plain)


def _attack_from_dict(data: dict) -> Attack:
    responses = [
        Response(**{**response, "rollout": Rollout(**response["rollout"]) if response["rollout"] else None})
        for response in data["responses"]
    ]
    return Attack(**{**data, "rollout": Rollout(**data["rollout"]), "responses": responses})
