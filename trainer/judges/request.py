"""The one interface of every judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from advgame.trainer.game import Category

Rubric = Literal["faithfulness", "compliance", "deflection", "refusal"]

Scores = tuple[float | None, ...]
"""One score a candidate, 0 to 10; for faithfulness 1 or 0. None where the judge gave no usable verdict."""


@dataclass(frozen=True)
class JudgeRequest:
    """One call of a judge."""

    rubric: Rubric
    category: Category
    query: str
    """What the candidates answer, or for faithfulness the seed that the candidate rewrites."""
    candidates: tuple[str, ...]
    """One, or two to be compared."""


Judge = Callable[[list[JudgeRequest]], list[Scores]]
"""A result per request, in order, with as many scores as the request has candidates."""
