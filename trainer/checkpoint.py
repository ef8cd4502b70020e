"""Checkpoints: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder of Hugging Face models and what else the next step depends on. Random numbers are
functions of the step (randomness.py) and so is the data's position (seeds.deal), so neither has a state to save;
the games of a batch that is not used up are kept, because the weights that played them are gone.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from advgame.trainer import distributed
from advgame.trainer.config import Config, ConfigError, fields
from advgame.trainer.game import Game, game_from_dict
from advgame.trainer.learner import Learner
from advgame.trainer.models import save_policy


def save(run: Path, step: int, learners: list[Learner], games: list[Game], keep: int) -> Path:
    """Writes run/checkpoints/step-N for N finished steps; `games` are those that later steps still train on."""
    target = folder(run, step)
    if distributed.rank() == 0:
        half = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(half, ignore_errors=True)
        for learner in learners:
            for suffix, policy in learner.player.policies.items():
                save_policy(policy, half / f"{learner.name}{suffix}")
            save_file(_optimizer_tensors(learner), half / f"{learner.name}_optimizer.safetensors")
        state = {"step": step, "games": [dataclasses.asdict(game) for game in games]}
        (half / "state.json").write_text(json.dumps(state), encoding="utf-8")
        _flush(half)
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
        _flush(target.parent)
        for old in finished(run)[:-keep]:
            shutil.rmtree(folder(run, old))
    distributed.barrier()
    return target


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def finished(run: Path) -> list[int]:
    """The steps that have a checkpoint, rising."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """The run and the step of a checkpoint, named by its folder, or by its run's: there the newest, without a step."""
    if path.parent.name == "checkpoints":
        if step is not None:
            raise ConfigError(f"--step {step}: {path} is one checkpoint; name its run, {path.parents[1]}")
        path, step = path.parents[1], int(path.name.removeprefix("step-"))
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{path}: not a run's folder, it has no config.yaml")
    steps = finished(path)
    if not steps:
        raise ConfigError(f"{path}: no checkpoint has been written yet")
    if step is not None and step not in steps:
        raise ConfigError(f"{path}: no checkpoint after step {step}; there are {', '.join(map(str, steps))}")
    return path, steps[-1] if step is None else step


def load_games(checkpoint: Path) -> list[Game]:
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return [game_from_dict(game) for game in state["games"]]


def load_optimizer(checkpoint: Path, learner: Learner) -> None:
    tensors = load_file(checkpoint / f"{learner.name}_optimizer.safetensors")
    for name, parameter in learner.player.policy.named_parameters().items():
        prefix = f"{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            learner.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device).clone() for key, value in state.items()
            }


def write_config(run: Path, config: Config) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def check_same_run(run: Path, config: Config) -> None:
    """Refuses to go on with a run under settings that would make it another one. Raises ConfigError."""
    stored = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    for name, field, value in fields(config):
        before = stored
        for key in name.split("."):
            before = before.get(key) if isinstance(before, dict) else None
        if before != value and not field.metadata["resume"]:
            raise ConfigError(
                f"{name}={value}: the run in {run} was started with {name}={before}; "
                f"set it back to go on, or choose another output_dir to start anew"
            )


def _optimizer_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    state = learner.optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in learner.player.policy.named_parameters().items()
        for key, value in state.get(parameter, {}).items()
    }


def _flush(path: Path) -> None:
    """Waits until the folder and the files in it are on the disk, so that a rename cannot outrun them."""
    for item in [*(p for p in path.rglob("*") if not p.name.startswith(".")), path] if path.is_dir() else [path]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
