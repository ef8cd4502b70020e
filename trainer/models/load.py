"""Policies from any source, and back into Hugging Face folders."""

import copy
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from advgame.trainer.base import collectives
from advgame.trainer.base.checksums import MANIFEST, damage
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.text import one_line
from advgame.trainer.models.adapters import base_of, merge_adapter
from advgame.trainer.models.head import check_head
from advgame.trainer.models.layers import fuse_layers
from advgame.trainer.models.policy import Policy
from advgame.trainer.models.sources import ADAPTER, resolve_model
from advgame.trainer.models.weights import check_files, check_finite, load_weights
from advgame.trainer.prompts.chat import chat_frame


def load_policy(source: str | Path, dtype: torch.dtype = torch.float32) -> Policy:
    """A model and its tokenizer from any source that `resolve_model` knows, on this process's device.

    Dropout is off (eval mode): a policy is compared with its own samples. Raises ConfigError if it cannot be loaded.
    """
    with _loading(source):
        folder = resolve_model(str(source))
        tokenizer = _load_tokenizer(source, folder)
        model = _load_model(folder, dtype)
        check_finite(model.named_parameters(), source)
        policy = Policy(model, tokenizer)
        _check_vocabulary(policy, source)
    for parameter in model.parameters():
        # Memory mapped from a file may be aligned differently, and products would round differently after a resume.
        parameter.data = parameter.data.clone()
    model.eval().to(collectives.device())
    if model.device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    else:
        fuse_layers(model)
    check_head(model, str(source))
    return policy


def load_with_averages(names: list[str], source: str, saved: Path | None) -> list[Policy]:
    """Whole models of these names, from the folders of `saved`; without it, the source's and frozen copies of it."""
    policy = load_policy(saved / names[0] if saved else source)
    averages = [
        load_policy(saved / name) if saved else Policy(copy.deepcopy(policy.model), policy.tokenizer)
        for name in names[1:]
    ]
    for average in averages:
        average.model.requires_grad_(False)
    return [policy, *averages]


def quiet() -> None:
    """Keeps transformers from showing progress, and DeepSpeed, which it imports, from looking for an accelerator."""
    os.environ.setdefault("DS_ACCELERATOR", collectives.device().type)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def check_model(source: str, setting: str) -> None:
    """Checks what it can before the weights are loaded. Raises ConfigError that names the setting."""
    try:
        with _loading(source):
            folder = resolve_model(source)
            in_checkpoint = (folder.parent / MANIFEST).exists()
            if in_checkpoint and (problem := damage(folder.parent, folder.name)):
                raise ConfigError(f"model {source}: {problem}")
            _load_tokenizer(source, folder)
            if not (folder / ADAPTER).is_file():
                check_files(folder)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error


def read_architecture(source: str) -> PretrainedConfig:
    """The model's configuration, an adapter's being that of its base. Raises ConfigError if it cannot be read."""
    with _loading(source):
        folder = resolve_model(source)
        if (folder / ADAPTER).is_file():
            return read_architecture(base_of(folder))
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def save_policy(policy: Policy, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Writes a Hugging Face folder: safetensors, tokenizer and generation config, or an adapter.

    weights: the policy's, whole; None: the model has them.
    """
    policy.activate()
    policy.model.save_pretrained(folder, state_dict=weights)  # only the active adapter, if there is one
    policy.tokenizer.save_pretrained(folder)


@contextmanager
def _loading(source: str | Path) -> Iterator[None]:
    """Turns whatever the libraries raise about a broken model into one line."""
    try:
        yield
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        own_code = "trust_remote_code" in str(error)
        reason = "it needs code of its own, which is never run" if own_code else one_line(error)[:200]
        raise ConfigError(f"model {source}: cannot be loaded, its files are damaged or incomplete: {reason}") from error


def _load_tokenizer(source: str | Path, folder: Path) -> PreTrainedTokenizerBase:
    """An adapter may leave its tokenizer out: it is its base's."""
    if (folder / ADAPTER).is_file() and not (folder / "tokenizer_config.json").is_file():
        return _load_tokenizer(source, resolve_model(base_of(folder)))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise ConfigError(f"model {source}: its tokenizer has no chat template; use an instruct model")
    try:
        chat_frame(tokenizer)
    except ConfigError as error:
        raise ConfigError(f"model {source}: {error}") from error
    return tokenizer


def _check_vocabulary(policy: Policy, source: str | Path) -> None:
    """Raises ConfigError unless every token has an embedding and a sample can end. Padding is an end if need be."""
    rows, tokenizer = policy.model.get_input_embeddings().weight.shape[0], policy.tokenizer
    tokens = max(tokenizer.get_vocab().values()) + 1
    if not rows / 2 <= tokens <= rows:  # a few rows without a token are usual
        raise ConfigError(
            f"model {source}: its tokenizer has {tokens} tokens and its embedding {rows} rows; they are of two models"
        )
    if not policy.stop_ids:
        raise ConfigError(f"model {source}: neither tokenizer nor generation config names an end-of-sequence token")
    if not 0 <= policy.stop_ids[0] <= policy.stop_ids[-1] < rows:
        raise ConfigError(f"model {source}: of its end-of-sequence tokens {policy.stop_ids}, some have no embedding")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = policy.stop_ids[0]


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """An adapter is merged into its base, so that the model is like any other."""
    if not (folder / ADAPTER).is_file():
        return load_weights(folder, dtype)
    try:
        base = resolve_model(base_of(folder))
    except ConfigError as error:
        raise ConfigError(f"adapter {folder}: the base_model_name_or_path in its config is wrong: {error}") from error
    return merge_adapter(_load_model(base, dtype), folder)
