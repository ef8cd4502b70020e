"""The protocol of every engine."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from advgame.trainer.engines.saved import SavedState


class Engine(Protocol):
    """Holds the weights of one player and their optimiser, on all processes together."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of this process's part of the loss to those since the last step."""

    def step(self, lr: float) -> float:
        """One optimiser step on the gradients, summed over the processes and clipped; they are dropped afterwards.

        Returns the norm of the gradients before clipping. If it is not finite, weights and optimiser stay as they are.
        """

    def drop(self) -> float:
        """Forgets the gradients since the last step instead of taking one. Returns their norm, as `step` does."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, by its name in the model, as a full tensor, layer by layer."""

    def shards(self) -> list[Tensor]:
        """The parts of the weights that this process holds: what a moving average follows."""

    def state(self) -> dict[str, Tensor]:
        """The part of the optimiser's state that this process is to save: all parts together are the whole.

        Named `parameter/field`, or as by `part_of`. Empty if no step has been taken.
        """

    def load_state(self, saved: SavedState) -> None:
        """Restores what any number of processes saved. Raises ConfigError if it is of other parameters."""
