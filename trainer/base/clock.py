"""The stages of a run, and the time that each takes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Stage(str, Enum):
    """What a run is doing, in the words in which it is shown and reported."""

    LOAD = "loading models"
    REFRESH = "samplers take the weights"
    ATTACK = "attacker writes"
    CHECK = "judge checks faithfulness"
    DEFEND = "defender answers"
    GRADE = "judge scores"
    ATTACKER_LEARNS = "attacker learns"
    DEFENDER_LEARNS = "defender learns"
    EVALUATE = "evaluating"
    SAVE = "saving"


SAMPLING = (Stage.ATTACK, Stage.DEFEND)


class Clock:
    """Times the stages: `with clock(Stage.SAVE): …`."""

    def __init__(self) -> None:
        self._taken = self._began = time.perf_counter()
        self._seconds: dict[Stage, float] = defaultdict(float)
        self._stage: Stage | None = None

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        self._stage, self._began = stage, time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - self._began
        self._stage = None

    @property
    def now(self) -> tuple[str, float] | None:
        """The current stage and its seconds so far; None between stages."""
        stage = self._stage  # read once: the live view asks from another thread
        return (stage.value, time.perf_counter() - self._began) if stage else None

    def seconds(self, *stages: Stage) -> float:
        """Seconds of these stages together since the last `take`."""
        return sum((self._seconds.get(stage, 0.0) for stage in stages), start=0.0)

    def take(self) -> dict:
        """Seconds since the last call, or since the start: in total, and of each stage."""
        now = time.perf_counter()
        taken = {
            "elapsed": now - self._taken,
            "stages": {stage.value: seconds for stage, seconds in self._seconds.items()},
        }
        self._taken, self._seconds = now, defaultdict(float)
        return taken
