"""What is finished of a run, and how it gets into the run's folder."""

from collections.abc import Sequence
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.base.files import append_record
from advgame.trainer.learn.probe import find_fault
from advgame.trainer.learn.step import Learner
from advgame.trainer.measure.resources import EnergyMeter
from advgame.trainer.records import Game, Item
from advgame.trainer.report.transcripts import write_transcript
from advgame.trainer.run import checkpoint
from advgame.trainer.run.folder import METRICS, SAMPLES
from advgame.trainer.settings.schema import Config


class Saver:
    """Knows the last finished step, so that it can be saved wherever between two steps a run ends."""

    def __init__(self, run: Path, step: int, games: list[Game], learners: list[Learner], config: Config, clock: Clock):
        """The run continues from the checkpoint after `step` steps; `games` are as in checkpoint.save."""
        self._run, self._learners, self._config = run, learners, config
        self._clock, self._meter = clock, EnergyMeter()
        self.saved = self._step = step
        self._games = games
        self._learnt: dict[str, Sequence[Item]] = {}
        self._unwritten: tuple[dict, list[Game]] | None = None

    def finish(self, record: dict, share: list[Game], games: list[Game], lessons: dict[str, Sequence[Item]]) -> None:
        """A step is in the weights: its record, the games it trained on, those that later steps still train on, and
        what each player was to learn from."""
        self._step, self._games, self._unwritten = record["step"], games, (record, share)
        self._learnt |= {name: lesson for name, lesson in lessons.items() if "loss" in record[name]}

    def write(self) -> None:
        """Writes the step's metrics and samples, if that has not been done."""
        if self._unwritten is None:
            return
        record, share = self._unwritten
        record["timing"] |= self._clock.take() | {"joules": self._meter.take()}

        def write() -> None:
            append_record(self._run / METRICS, record)
            write_transcript(self._run / SAMPLES / f"step-{record['step']:06d}.txt", share)

        collectives.from_first(write)
        self._unwritten = None

    def save(self) -> None:
        """Writes a checkpoint, if there is none of the step. Raises FloatingPointError if its weights are broken."""
        self.write()  # before it: a run that resumes from the checkpoint needs the lines up to it
        if self._step > self.saved:
            with self._clock(Stage.SAVE):
                self._check_sound()
                checkpoint.save(self._run, self._step, self._learners, self._games, self._config)
            self.saved = self._step

    def _check_sound(self) -> None:
        for learner in self._learners:
            lesson = self._learnt.get(learner.name)
            if lesson and (fault := find_fault(learner, lesson)):
                raise FloatingPointError(f"the weights after step {self._step} are broken and are not saved: {fault}")
