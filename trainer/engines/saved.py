"""An optimiser's state in files: each process writes the part that it holds, and any number of processes read them."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from advgame.trainer.base.errors import ConfigError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW's state, what has a number for each weight. Beside them is `step`, which is the same for all weights."""


def part_of(field: str, start: int) -> str:
    """The key of a part of `parameter/field`, whose first number is `start` of the flattened field."""
    return f"{field}@{start}"


class SavedState:
    """What Engine.state returned in each process. Empty if no step had been taken yet."""

    def __init__(self, files: Sequence[Path]):
        self._parts: dict[str, list[tuple[int, int, str, safe_open]]] = {}
        for file in files:
            tensors = safe_open(file, "pt")  # nothing is read yet
            for key in tensors.keys():  # noqa: SIM118
                field, _, start = key.partition("@")
                size = math.prod(tensors.get_slice(key).get_shape())
                self._parts.setdefault(field, []).append((int(start or 0), size, key, tensors))

    def covers(self, parameters: Collection[str]) -> bool:
        """False if there is no state yet. Raises ConfigError if it is not of exactly these parameters."""
        saved = {field.rpartition("/")[0] for field in self._parts}
        if saved and (others := sorted(saved.symmetric_difference(parameters))):
            raise ConfigError(
                f"the checkpoint's optimiser state is of other weights than those that are trained: {others[0]}, and "
                f"{len(others) - 1} more, are in one of them only; set the model and lora back, or start another run"
            )
        return bool(saved)

    @property
    def step(self) -> Tensor:
        """[]"""
        _, _, key, tensors = next(parts[0] for field, parts in self._parts.items() if field.endswith("/step"))
        return tensors.get_tensor(key).clone()

    def read(self, field: str, start: int, size: int) -> Tensor:
        """[size] numbers of the flattened `parameter/field`, from `start` on. Raises ConfigError if any is missing."""
        read, missing = torch.empty(size), size
        for begin, length, key, tensors in self._parts.get(field, []):
            low, high = max(start, begin), min(start + size, begin + length)
            if low < high:
                read[low - start : high - start] = tensors.get_tensor(key).flatten()[low - begin : high - begin]
                missing -= high - low
        if missing:
            raise ConfigError(f"the checkpoint's optimiser state lacks {missing} numbers of {field}; use another one")
        return read
