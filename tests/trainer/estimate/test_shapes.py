"""Shapes against whole models, and against published counts."""

import json

import pytest
import torch
from helpers import random_model

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.shapes import KNOWN, read_shape, shape_of
from advgame.trainer.models.families import MODEL_TYPES

PUBLISHED = {
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.1-8B": 8_030_261_248,
    "SmolLM2-135M": 134_515_008,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-70b": 68_976_648_192,
}
"""Parameters, as the models' pages on Hugging Face have them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters(name):
    assert read_shape(f"models/{name}-Instruct", "attacker.model").parameters == PUBLISHED[name]


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_the_shape_of_every_family_is_that_of_its_modules(family):
    model = random_model(family)
    shape = shape_of(model.config)
    linear = [m for m in model.base_model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.matrices == sum(m.weight.numel() for m in linear)
    assert (shape.layers, shape.hidden, shape.vocab, shape.width) == (2, 32, 97, 8)
    assert shape.tied == (model.lm_head.weight is model.get_input_embeddings().weight)


def test_an_adapter_is_as_large_as_pefts():
    peft = pytest.importorskip("peft")
    model = random_model("llama")
    shape = shape_of(model.config)
    model.add_adapter(peft.LoraConfig(r=4, target_modules="all-linear"), "one")
    assert shape.adapter(4) == sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)


def test_a_folder_needs_its_config_alone(tmp_path):
    config = random_model("qwen2").config
    folder = tmp_path / "Qwen2.5-7B-of-mine"  # what is there counts, not its name
    config.save_pretrained(folder)
    assert read_shape(str(folder), "attacker.model") == shape_of(config)


def test_a_layer_of_llama_by_its_closed_form():
    shape = read_shape("llama-70b", "attacker.model")
    h, i, kv = 8192, 28672, 8 * 128
    assert shape.layer == 2 * h * h + 2 * h * kv + 3 * h * i
    assert shape.matrices == 80 * shape.layer


@pytest.mark.parametrize("source", ["models/never-heard-of", "nowhere/config", "7B"])
def test_an_unknown_model_is_named_with_its_setting(source):
    with pytest.raises(ConfigError, match=rf"defender.model: model {source}: neither .*Qwen2.5-7B"):
        read_shape(source, "defender.model")


def test_a_family_that_cannot_be_trained_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match=r"attacker.model: .*gpt2 cannot be trained in packs"):
        read_shape(str(tmp_path), "attacker.model")


def test_the_longest_name_that_fits_counts():
    assert all(read_shape(name, "attacker.model").layers == KNOWN[name]["num_hidden_layers"] for name in KNOWN)
