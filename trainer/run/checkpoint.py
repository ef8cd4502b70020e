"""Checkpoints, from which a run continues bit for bit.

A checkpoint is a folder of Hugging Face models and whatever else the next step depends on. Random numbers are functions
of the step (base/randomness.py) and so is the place in the data (seeds.deal), so neither has a state to save. The games
of an unfinished batch are saved, because the weights that played them are gone.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import remove_folder, replacing_folder, truncate_records, write_text
from advgame.trainer.learn.step import Learner
from advgame.trainer.models.load import save_policy
from advgame.trainer.records import Game, game_from_dict
from advgame.trainer.run.folder import CONFIG, EVALUATIONS, METRICS
from advgame.trainer.settings.load import read_stored, to_yaml
from advgame.trainer.settings.schema import Config, fields

FORMAT = 2
"""Version of state.json; it changes if older checkpoints would be misread."""

STEP = re.compile(r"step-(\d+)")


def begin(run: Path, step: int, config: Config) -> None:
    """Writes config.yaml, and cuts the records back to the checkpoint that the run continues from."""
    write_text(run / CONFIG, to_yaml(config))
    truncate_records(run / METRICS, step)
    truncate_records(run / EVALUATIONS, step or -1)  # a run that begins evaluates its beginning again


def save(run: Path, step: int, learners: list[Learner], games: list[Game], keep: int) -> Path:
    """Writes run/checkpoints/step-N for N finished steps; `games` are those that later steps still train on."""
    target = folder(run, step)
    optimizers = {_optimizer_file(learner): learner.engine.state() for learner in learners}  # every process takes part
    with collectives.together():
        if collectives.rank() == 0:
            with replacing_folder(target) as half:
                for learner in learners:
                    for suffix, policy in learner.policies.by_suffix.items():
                        save_policy(policy, half / f"{learner.name}{suffix}")
                for name, tensors in optimizers.items():
                    save_file(tensors, half / name)
                state = {"format": FORMAT, "step": step, "games": [dataclasses.asdict(game) for game in games]}
                write_text(half / "state.json", json.dumps(state))
            for old in finished(run)[:-keep]:
                remove_folder(folder(run, old))
    return target


def size(learners: list[Learner]) -> int:
    """Bytes of the tensors of a checkpoint: the policies', and of those that are trained the optimiser's two."""
    return sum(
        parameter.numel() * parameter.element_size() * (3 if trained and policy is learner.policies.policy else 1)
        for learner in learners
        for trained in [learner.config.train]
        for policy in learner.policies.by_suffix.values()
        for parameter in policy.named_parameters().values()
    )


def load(checkpoint: Path, learners: list[Learner]) -> list[Game]:
    """Restores the optimisers, and returns the games that later steps still train on."""
    for learner in learners:
        learner.engine.load_state(load_file(checkpoint / _optimizer_file(learner)))
    return [game_from_dict(game) for game in _read_state(checkpoint)["games"]]


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def finished(run: Path) -> list[int]:
    """The steps that have a checkpoint, in rising order."""
    names = [STEP.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """The run and the step of a checkpoint, given as its folder, or as its run's folder and perhaps a step.

    Without a step it is the newest. Raises ConfigError if there is no such checkpoint.
    """
    absolute = path.resolve()  # the path may be relative to the run's own folder
    if absolute.parent.name == "checkpoints":
        if step is not None:
            raise ConfigError(f"--step {step}: {path} is one checkpoint; name its run, {absolute.parents[1]}")
        name = STEP.fullmatch(absolute.name)
        if not name:
            raise ConfigError(f"{path}: not a checkpoint; those of a run are named step-N")
        path, step = absolute.parents[1], int(name[1])
    if not (path / CONFIG).is_file():
        raise ConfigError(f"{path}: not a run's folder, it has no {CONFIG}")
    steps = finished(path)
    if not steps:
        raise ConfigError(f"{path}: no checkpoint has been written yet")
    if step is not None and step not in steps:
        raise ConfigError(f"{path}: no checkpoint after step {step}; there are {', '.join(map(str, steps))}")
    return path, steps[-1] if step is None else step


def check_same_run(run: Path, step: int, config: Config) -> None:
    """Raises ConfigError if the run's checkpoint or its settings do not allow it to continue as the same run."""
    written = _read_state(folder(run, step)).get("format", 1)
    if written != FORMAT:
        raise ConfigError(
            f"output_dir={run}: its checkpoint was written by another version of advgame (format {written}, this one "
            f"has {FORMAT}); continue it with that version, or choose another output_dir"
        )
    stored = read_stored(run / CONFIG)
    for name, field, value in fields(config):
        before: Any = stored
        for key in name.split("."):
            before = before.get(key) if isinstance(before, dict) else None
        if before != value and not field.metadata["resume"]:
            raise ConfigError(
                f"{name}={value}: the run in {run} was started with {name}={before}; "
                f"set it back to continue, or choose another output_dir to start again"
            )


def _optimizer_file(learner: Learner) -> str:
    return f"{learner.name}_optimizer.safetensors"


def _read_state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
