"""Model folders and tokenizers that are damaged, incomplete or hostile."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.commands import FINE, REFUSED, explore, refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from advgame.trainer.models.built.tiny import build_tiny

pytestmark = pytest.mark.timeout(30)

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
         "chat_template.jinja")  # fmt: skip
HURT = "import os; os.system('touch ran')"


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    build_tiny(folder)
    return folder


def edited(**values) -> Callable[[Path], None]:
    """config.json with other values; None removes one."""

    def edit(folder: Path, file: str = "config.json") -> None:
        stored = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({name: value for name, value in stored.items() if value is not None}))

    return edit


def tokenizer(**values) -> Callable[[Path], None]:
    return lambda folder: edited(**values)(folder, "tokenizer_config.json")


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return edit


def chat(template: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(template)


def no_end(folder: Path) -> None:
    edited(eos_token_id=None)(folder)
    (folder / "generation_config.json").write_text("{}")
    tokenizer(eos_token=None)(folder)


def without(part: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if part not in name}


def write(file: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


def with_a_row_of_nan(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.index_fill(0, torch.tensor([7]), torch.nan)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


OWN_MODEL = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
WRONG = {
    "a layer's tensors are missing": tensors(lambda w: without("layers.1.", w)),
    "one tensor is missing": tensors(lambda w: without("layers.0.mlp.up_proj", w)),
    "the embedding is missing": tensors(lambda w: without("embed_tokens", w)),
    "no tensors": tensors(lambda w: {}),
    "a tensor that does not belong": tensors(lambda w: w | {"model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)}),
    "a tensor of another name": tensors(lambda w: {name.replace("norm", "form"): t for name, t in w.items()}),
    "a tensor of another shape": tensors(lambda w: w | {NORM: torch.ones(7)}),
    "a weight that is not a number": tensors(lambda w: w | {NORM: torch.full((32,), torch.nan)}),
    "a weight that is infinite": tensors(lambda w: w | {NORM: torch.full((32,), torch.inf)}),
    "one row of NaN in the embedding": tensors(lambda w: w | {EMBEDDING: with_a_row_of_nan(w[EMBEDDING])}),
    "another number of layers": edited(num_hidden_layers=3),
    "another width": edited(hidden_size=48),
    "another vocabulary": edited(vocab_size=11),
    "no model type": edited(model_type=None),
    "an unknown model type": edited(model_type="nothing"),
    "a type that is not supported": edited(model_type="gpt2"),
    "no heads": edited(num_attention_heads=0),
    "negative layers": edited(num_hidden_layers=-1),
    "a context of no tokens": edited(max_position_embeddings=0),
    "an epsilon that is not a number": edited(rms_norm_eps="small"),
    "code of its own": edited(auto_map=OWN_MODEL, model_type="own"),
    "config.json is a list": write("config.json", "[]"),
    "config.json nested 100,000 deep": write("config.json", "[" * 100_000),
    "tokenizer.json is a list": write("tokenizer.json", "[]"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: [(folder / f"tokenizer{kind}.json").unlink() for kind in ("", "_config")],
    "weights that are a pickle": pickled,
    "weights of zeros": write("model.safetensors", bytes(4096)),
    "a header that is too long": write("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
    "no chat template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "no end of a turn": no_end,
    "a chat template that raises": chat("{{ raise_exception('no system turn') }}"),
    "a chat template that does not parse": chat("{% for message in %}"),
    "a chat template without the text": chat("{% for message in messages %}<{{ message['role'] }}>{% endfor %}"),
    "a chat template that is empty": chat(""),
    "a chat template that runs a command": chat("{{ cycler.__init__.__globals__.os.system('touch ran') }}"),
    "a chat template of another language": chat("{{ messages | tojson | shout }}"),
    "a chat template without end": chat("{% for i in range(10 ** 12) %}x{% endfor %}{{ messages[0].content }}"),
    "an end that the vocabulary lacks": tokenizer(eos_token="<nowhere>"),
    "a tokenizer with code of its own": tokenizer(
        auto_map={"AutoTokenizer": ["code.Tokenizer", None]}, tokenizer_class="Own"
    ),
}  # fmt: skip
FINE_MODELS = {
    "no padding token": tokenizer(pad_token=None),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "a tokenizer of an unknown class": tokenizer(tokenizer_class="NothingTokenizer"),
}


def play(capsys, model: Path, run: Path, *settings: str) -> str | None:
    names = [f"attacker.model={model}", f"defender.model={model}"]
    return refusal(capsys, "train", "--config", "tiny", "steps=1", f"output_dir={run}", *names, *settings)


def copy(whole: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(whole, to)
    (to / "code.py").write_text(HURT)
    return to


@pytest.mark.parametrize("name", WRONG)
def test_models_that_are_wrong(name, whole, tmp_path, capsys, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRONG[name](copy(whole, tmp_path / "model"))
    line = play(capsys, tmp_path / "model", tmp_path / "run")
    assert not list(tmp_path.rglob("ran")), "code from the model's folder ran"
    assert line and str(tmp_path / "model") in line, line
    fault("input", "model folders", REFUSED)


@pytest.mark.parametrize("name", FINE_MODELS)
def test_models_that_are_fine(name, whole, tmp_path, capsys, fault):
    FINE_MODELS[name](copy(whole, tmp_path / "model"))
    assert play(capsys, tmp_path / "model", tmp_path / "run") is None
    fault("input", "model folders", FINE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", FILES)
def test_models_with_a_damaged_file(file, whole, tmp_path, capsys, fault, times, seed):
    """Cut anywhere, or overwritten in places. What then plays is no longer the same model, but a model."""

    @explore(seed, times(2, 8))
    @given(st.floats(0, 0.99), st.sampled_from(["cut", "zeros", "noise"]))
    def try_one(place, damage):
        folder = copy(whole, tmp_path / "model")
        content = bytearray((folder / file).read_bytes())
        begin = int(place * len(content))
        content[begin : None if damage == "cut" else begin + 16] = {
            "cut": b"", "zeros": bytes(16), "noise": random.Random(begin).randbytes(16)
        }[damage]  # fmt: skip
        (folder / file).write_bytes(content)
        line = play(capsys, folder, tmp_path / "run")
        assert line is None or str(folder) in line, line
        fault("input", "model folders, a file damaged anywhere", FINE if line is None else REFUSED)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    try_one()
