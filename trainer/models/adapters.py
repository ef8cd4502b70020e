"""LoRA adapters: several over one frozen model, or one merged into its base."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from advgame.trainer.base.randomness import key_to_seed
from advgame.trainer.models.policy import Policy
from advgame.trainer.models.weights import check_finite, check_tensors
from advgame.trainer.settings.schema import LoraConfig


def add_adapters(base: Policy, names: list[str], config: LoraConfig, seed: int, saved: Path | None) -> list[Policy]:
    """Policies of these names over the frozen model of `base`, equal at first or as in the folders of `saved`."""
    import peft  # slow

    base.model.requires_grad_(False)
    for name in names:
        # One of an adapter's two matrices is random at first; and peft warns of a second adapter.
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(key_to_seed(seed, "lora", names[0]))
            if saved:
                info = base.model.load_adapter(
                    str(saved / name), adapter_name=name, is_trainable=True, ignore_mismatched_sizes=True
                )
                own = Policy(base.model, base.tokenizer, name).named_parameters()
                missing = own.keys() & info.missing_keys  # which has those of other adapters too
                check_tensors(saved / name, missing, info.unexpected_keys, info.mismatched_keys)
                check_finite(own.items(), saved / name)
            else:
                adapter = peft.LoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,
                    target_modules="all-linear",
                    base_model_name_or_path=base.model.name_or_path,
                )
                base.model.add_adapter(adapter, adapter_name=name)
    return [Policy(base.model, base.tokenizer, name) for name in names]


def merged_weights(policy: Policy, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The model's weights that an adapter changes, named without it, each plus what the adapter adds.

    weights: the adapter's, named as in the model; with none of them, nothing is changed.
    """
    for name, layer in policy.model.named_modules() if weights else ():
        if policy.adapter in getattr(layer, "lora_A", {}):
            down, up = (weights[f"{name}.{part}.{policy.adapter}.weight"] for part in ("lora_A", "lora_B"))
            base = policy.whole(layer.base_layer.weight).to(up.dtype)
            yield f"{name}.weight", torch.addmm(base, up, down, alpha=layer.scaling[policy.adapter])


def read_adapter(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights of the adapter in `folder`, named as in a model where it is called `name`."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        f"{key.removeprefix('base_model.model.').removesuffix('weight')}{name}.weight": tensors[key] for key in tensors
    }


def base_of(folder: Path) -> str:
    """The model that the adapter in `folder` belongs to."""
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Adds the adapter in `folder` to the model's weights."""
    import peft  # slow

    with warnings.catch_warnings():  # peft's: about names that transformers changes, and adapters on adapters
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(str(folder)))
        info = adapted.load_adapter(str(folder), "default")  # from_pretrained would not say what is missing
        check_tensors(folder, info.missing_keys, info.unexpected_keys)
        merged = adapted.merge_and_unload()
    merged.name_or_path = str(folder)
    return merged
