"""The mean of a run's last checkpoints, as models: what varies from step to step cancels (LAWA, arXiv 2209.14981)."""

import functools
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from advgame.trainer.base.checksums import damage, write_manifest
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import replacing_folder, write_text
from advgame.trainer.run.checkpoint import folder
from advgame.trainer.run.folder import AVERAGE, CONFIG, MEAN_OF
from advgame.trainer.run.players import playing_models
from advgame.trainer.settings.load import to_yaml
from advgame.trainer.settings.schema import Config


def average(run: Path, steps: list[int], config: Config) -> Path:
    """Writes the mean of the players that play after these steps to run/average, and returns that: models named as in
    a checkpoint, with the run's settings.

    The checkpoints are whole. Adapters are averaged as such, and remain adapters.
    """
    saved = [folder(run, step) for step in steps]
    with replacing_folder(run / AVERAGE) as half:
        for models in zip(*(playing_models(checkpoint, config) for checkpoint in saved), strict=True):
            average_models(models, half / models[-1].name)
        write_text(half / CONFIG, to_yaml(config))
        write_text(half / MEAN_OF, json.dumps(steps))
        write_manifest(half)
    return run / AVERAGE


def average_models(models: Sequence[Path], target: Path) -> None:
    """Writes a model whose weights are the means of these models', which have the same files; in their dtypes."""
    shutil.copytree(models[-1], target, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in sorted(path.name for path in models[-1].glob("*.safetensors")):
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(model / name, "pt")) for model in models]
            means = {}
            for key in files[-1].keys():  # noqa: SIM118 (it is no dict)
                tensors = [file.get_tensor(key) for file in files]
                total = functools.reduce(torch.add, (tensor.double() for tensor in tensors))
                means[key] = (total / len(tensors)).to(tensors[-1].dtype)
            save_file(means, target / name, metadata=files[-1].metadata())


def read_average(path: Path) -> list[int] | None:
    """The steps that the players in a folder are the mean of; None if they are none.

    Raises ConfigError if a file has changed since.
    """
    if not (path / MEAN_OF).is_file():
        return None
    if problem := damage(path):
        raise ConfigError(f"{problem}; make the mean again: advgame average RUN")
    return json.loads((path / MEAN_OF).read_text(encoding="utf-8"))
