"""Checkpoints: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder of Hugging Face models and what else the next step depends on. Random numbers are
functions of the step (randomness.py) and so is the data's position (seeds.deal), so neither has a state to save;
the games of a batch that is not used up are kept, because the weights that played them are gone.
"""

import dataclasses
import json
import re
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
from advgame.trainer.outputs import flush, write

STEP = re.compile(r"step-(\d+)")


def save(run: Path, step: int, learners: list[Learner], games: list[Game], keep: int) -> Path:
    """Writes run/checkpoints/step-N for N finished steps; `games` are those that later steps still train on."""
    target = folder(run, step)
    if distributed.rank() == 0:
        for leftover in target.parent.glob(".step-*"):  # of a run that was killed
            shutil.rmtree(leftover)
        half = _hidden(target)
        for learner in learners:
            for suffix, policy in learner.player.policies.items():
                save_policy(policy, half / f"{learner.name}{suffix}")
            save_file(_optimizer_tensors(learner), half / f"{learner.name}_optimizer.safetensors")
        state = {"step": step, "games": [dataclasses.asdict(game) for game in games]}
        (half / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for item in [*half.rglob("*"), half]:
            flush(item)
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
        flush(target.parent)
        for old in finished(run)[:-keep]:  # hidden first: half a checkpoint must not be taken for one
            shutil.rmtree(folder(run, old).rename(_hidden(folder(run, old))))
    distributed.barrier()
    return target


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def finished(run: Path) -> list[int]:
    """The steps that have a checkpoint, rising."""
    names = [STEP.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """The run and the step of a checkpoint, named by its folder, or by its run's: there the newest, without a step."""
    whole = path.resolve()  # it may be given from within its run
    if whole.parent.name == "checkpoints":
        if step is not None:
            raise ConfigError(f"--step {step}: {path} is one checkpoint; name its run, {whole.parents[1]}")
        if not STEP.fullmatch(whole.name):
            raise ConfigError(f"{path}: not a checkpoint; those of a run are named step-N")
        path, step = whole.parents[1], int(STEP.fullmatch(whole.name)[1])
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
    write(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))


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


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")
