"""The weights in a model's folder: safetensors, whole, of the right shapes, and finite."""

import json
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from advgame.trainer.base.errors import ConfigError

INDEX = ".safetensors.index.json"


def load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in the folder. Raises ConfigError if its files and its config are not of one whole model."""
    check_files(folder)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        output_loading_info=True,
    )
    check_tensors(folder, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return model


def check_files(folder: Path) -> None:
    """Raises ConfigError unless the weights are safetensors: loading a pickle can run what somebody put into it."""
    if not any(folder.glob("*.safetensors")):
        what = "pickles (.bin)" if any(folder.glob("*.bin")) else "not there"
        raise ConfigError(f"model {folder}: its weights are {what}; download it whole, as safetensors")
    # What these name would be loaded, pickle or not, although safetensors are asked for.
    explicit = getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "transformers_weights", None)
    named = [explicit] if explicit else []
    for index in folder.glob(f"*{INDEX}"):
        named += json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    for name in named:
        if not name.endswith((".safetensors", INDEX)):
            raise ConfigError(f"model {folder}: its weights are in {name}, and only safetensors are loaded")


def check_tensors(
    folder: Path, missing: Collection[str], unexpected: Collection[str], mismatched: Collection[tuple] = ()
) -> None:
    """Raises ConfigError if tensors are missing, unknown or of another shape; what is missing would be random.

    mismatched: (name, shape in the files, shape in the model) each.
    """
    files = ", ".join(path.name for path in islice(sorted(folder.glob("*.safetensors")), 3))
    shapes = [f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in mismatched]
    for names, what in (
        (missing, "are missing; download it whole"),
        (unexpected, "are not of this kind of model; its config is of another one"),
        (shapes, "have another shape than its config says"),
    ):
        if names:
            first = ", ".join(islice(sorted(names), 3)) + (", …" if len(names) > 3 else "")
            raise ConfigError(f"model {folder} ({files}): {len(names)} tensors {what}: {first}")


def check_finite(weights: Iterable[tuple[str, Tensor]], source: str | Path) -> None:
    """Raises ConfigError that names the first weight with a NaN or an infinity."""
    for name, weight in weights:
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ConfigError(f"model {source}: {name} has values that are not finite; its weights are ruined")
