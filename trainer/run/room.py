"""Whether there is room for a run: predicted before anything is loaded, and compared with what its first step took."""

from dataclasses import replace
from pathlib import Path

import torch

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.cards import Card, processor
from advgame.trainer.estimate.predict import PLAYERS, Prediction, cures, predict, worded
from advgame.trainer.estimate.shapes import Shape, shape_of
from advgame.trainer.measure.resources import MEMORY, peak_memory
from advgame.trainer.models.load import read_architecture
from advgame.trainer.settings.schema import Config

MARGIN = 1.25
"""A run is refused if its prediction is above what there is by this factor: samples may end early, and a prediction may
be wrong."""


def check_room(config: Config, saved: Path | None, card: Card | None = None) -> float:
    """Bytes that a process is predicted to take at its peak, with samples as long as they may be.

    saved: the checkpoint that a run continues from. card: None is this machine's. Raises ConfigError if there is far
    less, naming settings by which there would be enough.
    """
    card = card or this_card()
    shapes = {name: shape_here(config, name, saved) for name in PLAYERS}
    gpus = collectives.world_size()
    prediction = predict(config, shapes, gpus, card, efficiency=1.0)
    if prediction.memory.peak > MARGIN * prediction.limit:
        raise ConfigError(refusal(prediction, [*cures(config, shapes, gpus, card)]))
    return prediction.memory.peak


def this_card() -> Card:
    """The GPU of this process, or the memory of this machine and of others like it for processes that share it."""
    if torch.cuda.is_available():
        return Card(torch.cuda.get_device_properties(collectives.device()).total_memory, None)
    machines = collectives.world_size() / collectives.local_world_size()
    return replace(processor(), memory=machines * processor().memory)


def shape_here(config: Config, name: str, saved: Path | None) -> Shape:
    player = getattr(config, name)
    return shape_of(read_architecture(player.model if saved is None or player.lora.rank else str(saved / name)))


def refusal(prediction: Prediction, ways: list[tuple[int, dict]]) -> str:
    memory = prediction.memory
    found = (
        f"there is no room for this run: when {memory.peak_moment}, a process is predicted to take "
        f"{memory.peak / 1e9:.1f} GB, and has {prediction.limit / 1e9:.1f} GB"
    )
    cured = [
        f"set {worded(change)}".removesuffix(" ") + ("" if gpus == prediction.gpus else f" and start {gpus} processes")
        if change
        else f"start {gpus} processes"
        for gpus, change in ways
    ]
    return f"{found}; {', or '.join(cured) or 'take smaller models'} (advgame estimate has the parts)"


def compare(predicted: float, before: int) -> dict[str, float]:
    """Prediction and measurement, for the record of a run's first step; nothing if it was not the process's peak.

    before: the process's peak when the run began.
    """
    measured = peak_memory() - before
    if measured <= 0:
        return {}
    return dict(zip(MEMORY, (predicted / 2**30, measured / 2**30), strict=True))
