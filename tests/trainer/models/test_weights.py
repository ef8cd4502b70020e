"""Model folders that are broken in one place: each is refused in one line that names it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import run_tiny
from safetensors.torch import load_file, save_file

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import check_model, load_policy, save_policy
from advgame.trainer.run.checkpoint import folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path) -> Path:
    save_policy(load_policy("tiny"), tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, how: Callable[[dict], object]) -> None:
    """Changes a JSON object or the tensors of a file."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        how(content)
        file.write_text(json.dumps(content))
    else:
        tensors = load_file(file)
        how(tensors)
        save_file(tensors, file, metadata={"format": "pt"})


def refusal(source: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_policy(source)
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def removed(tensors: dict) -> None:
    for name in sorted(tensors)[:9]:
        del tensors[name]


def with_nan(tensors: dict) -> None:
    tensors["model.norm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (removed, "10 tensors are missing; download it whole: lm_head.weight, model.embed_tokens.weight, .*…"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "1 tensors are not of this kind of model.*: extra"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}),
            r"1 tensors have another shape .*: model.norm.weight \[3\] instead of \[32\]",
        ),
        (with_nan, "model.norm.weight has values that are not finite"),
        (lambda tensors: tensors["model.norm.weight"].fill_(-torch.inf), "values that are not finite"),
    ],
)
def test_tensors_that_are_not_those_of_the_model(model, how, message):
    change(model / WEIGHTS, how)
    assert re.search(message, refusal(model))


def test_a_tied_head_that_is_not_in_the_file_is_not_missed(model):
    assert "lm_head.weight" not in load_file(model / WEIGHTS)
    change(
        model / WEIGHTS,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
    )
    assert load_policy(model).model.get_output_embeddings().weight.shape[0]


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_that_is_cut(model, size):
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[:size])
    assert "cannot be loaded" in refusal(model)


@pytest.mark.parametrize("family", ["qwen2", "olmo2", "bert", "gpt2"])
def test_the_config_of_another_family(model, family):
    change(model / "config.json", lambda config: config.update(model_type=family, architectures=None))
    refusal(model)


@pytest.mark.parametrize("content", ["", "[]", "{", '"llama"', "{}", '{"model_type": "unheard"}', "\x00\xff"])
def test_a_config_that_is_none(model, content):
    (model / "config.json").write_text(content, encoding="latin-1")
    refusal(model)


def pickled(model: Path) -> None:
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()


def named_by_index(model: Path) -> None:
    pickled(model)
    (model / "other.safetensors").write_bytes(b"")
    names = dict.fromkeys(torch.load(model / "pytorch_model.bin"), "pytorch_model.bin")
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def named_by_config(model: Path) -> None:
    torch.save(load_file(model / WEIGHTS), model / "adapter_model.bin")
    change(model / "config.json", lambda config: config.update(transformers_weights="adapter_model.bin"))


@pytest.mark.parametrize("how", [pickled, named_by_index, named_by_config])
def test_pickles_are_not_loaded(model, how):
    how(model)
    assert "safetensors" in refusal(model) and ".bin" in refusal(model)
    with pytest.raises(ConfigError, match=r"attacker.model: model .*\.bin.* safetensors"):
        check_model(str(model), "attacker.model")


def test_code_that_comes_with_a_model_is_never_run(model):
    (model / "code.py").write_text(f"open({str(model / 'ran')!r}, 'w')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    change(model / "config.json", lambda old: old.update(config))
    assert "it needs code of its own, which is never run" in refusal(model)
    assert not (model / "ran").exists()


@pytest.mark.parametrize("rows", [40, 400])
def test_an_embedding_of_another_vocabulary(model, rows):
    width = load_file(model / WEIGHTS)["model.embed_tokens.weight"].shape[1]
    change(model / WEIGHTS, lambda tensors: tensors.update({"model.embed_tokens.weight": torch.ones(rows, width)}))
    change(model / "config.json", lambda config: config.update(vocab_size=rows, pad_token_id=None))
    assert re.search(rf"its tokenizer has \d+ tokens and its embedding {rows} rows", refusal(model))


def test_a_vocabulary_without_ends(model):
    change(model / "tokenizer_config.json", lambda config: config.update(eos_token=None, pad_token=None))
    assert load_policy(model).tokenizer.pad_token_id in load_policy(model).stop_ids  # the generation config's
    for ends, message in ((None, "names an end-of-sequence token"), ([5, 9999], "some have no embedding")):
        change(model / "generation_config.json", lambda config, ends=ends: config.update(eos_token_id=ends))
        change(model / "config.json", lambda config: config.update(eos_token_id=None))
        assert message in refusal(model)


def test_adapters_are_whole_or_refused(tmp_path):
    pytest.importorskip("peft")
    saved = folder(run_tiny(tmp_path / "run", "attacker.lora.rank=2", "steps=1"), 1) / "attacker"
    for how, message in (
        (lambda tensors: tensors.pop(sorted(tensors)[0]), "1 tensors are missing"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "1 tensors are not of this kind"),
        (lambda tensors: tensors[sorted(tensors)[0]].fill_(torch.nan), "values that are not finite"),
    ):
        adapter = Path(shutil.copytree(saved, tmp_path / "adapter", dirs_exist_ok=True))
        change(adapter / "adapter_model.safetensors", how)
        assert message in refusal(adapter)
