"""The interface of every judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from advgame.trainer.records import Category

Rubric = Literal["faithfulness", "compliance", "deflection", "refusal"]

Scores = tuple[float | None, ...]
"""A score for each candidate, 0 to 10; for faithfulness 1 or 0. None if the judge gave no usable verdict."""


@dataclass(frozen=True)
class JudgeRequest:
    """One call of a judge."""

    rubric: Rubric
    category: Category
    query: str
    """What the candidates answer; for faithfulness, the seed's query that the candidate rewrites."""
    candidates: tuple[str, ...]
    """One, or two to be compared."""


Judge = Callable[[list[JudgeRequest]], list[Scores]]
"""The scores of each request, in order."""
