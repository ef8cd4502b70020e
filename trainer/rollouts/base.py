"""The protocol of every sampler."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from advgame.trainer.base.randomness import Key
from advgame.trainer.records import Rollout
from advgame.trainer.settings.schema import SamplingConfig


@dataclass(frozen=True)
class Request:
    """One sample to be drawn."""

    text: str
    """The user's turn; the sampler puts it into its model's chat template."""
    key: Key
    """With the text and the weights, it decides what is sampled (see base/randomness.py)."""


class Sampler(Protocol):
    """A model that can be sampled, wherever it runs."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes over the weights, named as in the model; from now on rollouts carry `version`.

        Raises ValueError if a weight is missing, unknown or of another shape.
        """

    def sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | None]:
        """A rollout for each request, in order; None if a server did not answer."""

    def close(self) -> None:
        """Frees what the sampler holds."""
