"""Checkpoints, from which a run continues bit for bit.

A checkpoint is a folder of Hugging Face models and whatever else the next step depends on, with a checksum of each file
(base/checksums.py): one that has changed since is not used. Random numbers are functions of the step
(base/randomness.py) and so is the place in the data (seeds.deal), so neither has a state to save. The games of an
unfinished batch are saved, because the weights that played them are gone.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from advgame.trainer.base import collectives
from advgame.trainer.base.checksums import MANIFEST, damage, write_manifest
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import remove_folder, replacing_folder, set_aside, write_text, writing
from advgame.trainer.base.text import one_line
from advgame.trainer.engines.saved import SavedState
from advgame.trainer.engines.zero import numel
from advgame.trainer.learn.step import Learner
from advgame.trainer.models.load import save_policy
from advgame.trainer.records import Game, game_from_dict
from advgame.trainer.run.folder import CONFIG
from advgame.trainer.run.records import check_records, rewind, survey
from advgame.trainer.settings.load import read_stored, to_yaml
from advgame.trainer.settings.schema import Settings, fields

FORMAT = 3
"""Version of checkpoints; it changes if older ones would be misread."""

STATE = "state.json"
STEP = re.compile(r"step-(\d+)")
KEEP_MORE = (
    "the default checkpoint.keep=2 drops older ones: train with a larger checkpoint.keep, and checkpoint.every to match"
)
"""What helps where there are too few."""


def begin(run: Path, step: int, config: Settings) -> None:
    """Writes config.yaml, and goes back to the checkpoint that the run continues from: later ones are damaged."""
    write_text(run / CONFIG, to_yaml(config))
    for later in finished(run):
        if later > step:
            set_aside(folder(run, later))
    rewind(run, _read_state(folder(run, step))["records"] if step else {})


def save(run: Path, step: int, learners: list[Learner], games: list[Game], config: Settings) -> Path:
    """Writes run/checkpoints/step-N for N finished steps; `games` are those that later steps still train on.

    The first process writes the models, which are put together in its host's memory one at a time. Of the optimisers,
    each process writes what it holds.
    """
    target, first = folder(run, step), collectives.rank() == 0

    @contextmanager
    def writing_alone() -> Iterator[None]:
        with collectives.together(), writing(target):
            yield

    with ExitStack() as stack:  # of the first process
        half = collectives.from_first(lambda: stack.enter_context(replacing_folder(target)))
        for learner in learners:
            for suffix, policy in learner.policies.by_suffix.items():
                weights = policy.gathered()
                with writing_alone():
                    if first:
                        save_policy(policy, half / f"{learner.name}{suffix}", weights)
            optimizer = learner.engine.state()
            with writing_alone():
                if optimizer or first:
                    part = "" if first else f"-{collectives.rank()}"
                    save_file(optimizer, half / f"{learner.name}_optimizer{part}.safetensors")
        with writing_alone():
            if first:
                write_text(half / CONFIG, to_yaml(config))
                played = [dataclasses.asdict(game) for game in games]
                state = {"format": FORMAT, "step": step, "games": played, "records": survey(run)}
                write_text(half / STATE, json.dumps(state))
                write_manifest(half)
                stack.close()
                for old in finished(run)[: -config.checkpoint.keep]:
                    remove_folder(folder(run, old))
    return target


def size(learners: list[Learner]) -> int:
    """Bytes of the tensors of a checkpoint: the policies', and of those that are trained the optimiser's two."""
    return sum(
        4 * numel(parameter) * (3 if trained and policy is learner.policies.policy else 1)
        for learner in learners
        for trained in [learner.config.train]
        for policy in learner.policies.by_suffix.values()
        for parameter in policy.named_parameters().values()
    )


def load(checkpoint: Path, learners: list[Learner]) -> list[Game]:
    """Restores the optimisers, and returns the games that later steps still train on."""
    for learner in learners:
        learner.engine.load_state(SavedState(sorted(checkpoint.glob(f"{learner.name}_optimizer*.safetensors"))))
    return [game_from_dict(game) for game in _read_state(checkpoint)["games"]]


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def finished(run: Path) -> list[int]:
    """The steps that have a checkpoint, in rising order."""
    names = [STEP.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """The run and the step of a checkpoint, given as its folder, or as its run's folder and perhaps a step.

    Without a step it is the newest. Raises ConfigError if there is no such checkpoint, or if it is damaged.
    """
    absolute = path.resolve()  # the path may be relative to the run's own folder
    if absolute.parent.name == "checkpoints":
        if step is not None:
            raise ConfigError(f"--step {step}: {path} is one checkpoint; name its run, {absolute.parents[1]}")
        name = STEP.fullmatch(absolute.name)
        if not name:
            raise ConfigError(f"{path}: not a checkpoint; those of a run are named step-N")
        path, step = absolute.parents[1], int(name[1])
    steps = check_run(path)
    if not steps:
        raise ConfigError(f"{path}: no checkpoint has been written yet")
    if step is not None and step not in steps:
        raise ConfigError(f"{path}: no checkpoint after step {step}; there are {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    check_whole(path, step)
    return path, step


def check_run(run: Path) -> list[int]:
    """The steps that have a checkpoint. Raises ConfigError if the folder is not a run's."""
    steps = finished(run)
    if not steps and not (run / CONFIG).is_file():
        raise ConfigError(f"{run}: not a run's folder, it has no {CONFIG}; give the output_dir of one")
    return steps


def check_whole(run: Path, step: int) -> None:
    """Raises ConfigError if a checkpoint is damaged, or of another version."""
    if problem := _problem(folder(run, step)):
        others = ", ".join(str(other) for other in finished(run) if other != step) or "none"
        raise ConfigError(f"{problem}; put it back, or remove this checkpoint (others are of steps {others})")


def resume(run: Path, config: Settings) -> int:
    """The step of the newest checkpoint that is whole, 0 if there is none. A warning names those that are not.

    Raises ConfigError if all are damaged, or if they or the settings do not allow this to continue as the same run.
    """
    problems = []
    for step in reversed(finished(run)):
        checkpoint = folder(run, step)
        if problem := _problem(checkpoint):
            problems.append(problem)
            continue
        for problem in problems:
            warnings.warn(
                f"{problem}; this checkpoint is set aside, and the run continues from that of step {step}", stacklevel=2
            )
        _check_same_run(checkpoint, config)
        check_records(run, _read_state(checkpoint)["records"])
        return step
    if problems:
        raise ConfigError(
            f"output_dir={run}: {problems[0]}, and there is no other checkpoint that is whole; put it back, or choose "
            f"another output_dir to start again"
        )
    return 0


def _problem(checkpoint: Path) -> str | None:
    """What is damaged in a checkpoint, in words that name the file. Raises ConfigError if it is of another version."""
    problem = damage(checkpoint)
    try:
        state = _read_state(checkpoint)
        written, name = state.get("format", 1), f"step-{state['step']:06d}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return problem or f"{checkpoint / STATE} is damaged ({one_line(repr(error))})"
    if written != FORMAT and (problem is None or not (checkpoint / MANIFEST).exists()):  # the first had no checksums
        raise ConfigError(
            f"output_dir={checkpoint.parents[1]}: its checkpoint was written by another version of advgame (format "
            f"{written}, this one has {FORMAT}); continue it with that version, or choose another output_dir"
        )
    if problem is None and not (name == checkpoint.name and {"games", "records"} <= state.keys()):
        return f"{checkpoint / STATE} is not the state of {checkpoint.name}"
    return problem


def _check_same_run(checkpoint: Path, config: Settings) -> None:
    """Raises ConfigError if a setting has changed that makes it another run."""
    stored, run = read_stored(checkpoint / CONFIG), checkpoint.parents[1]
    for name, field, value in fields(config):
        before: Any = stored
        for key in name.split("."):
            before = before.get(key) if isinstance(before, dict) else None
        if before != value and not field.metadata["resume"]:
            raise ConfigError(
                f"{name}={value}: the run in {run} was started with {name}={before}; "
                f"set it back to continue, or choose another output_dir to start again"
            )


def _read_state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
