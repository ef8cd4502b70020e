"""The prediction against what processes take: two players of 10 million parameters learn and sample on a processor."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from advgame.trainer.estimate.memory import memory
from advgame.trainer.estimate.plan import plan, shapes_of
from advgame.trainer.estimate.work import traffic
from advgame.trainer.models.built.arena import make_tokenizer
from advgame.trainer.settings.load import load_config

FOOTPRINT = Path(__file__).parents[3] / "bench" / "footprint.py"
PLAYERS = ("attacker", "defender")
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
VOCAB = 8192


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ten-million")
    tokenizer = make_tokenizer([f"w{i}" for i in range(VOCAB - 9)])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8,
            num_key_value_heads=4, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, ()),
        (1, ("attacker.optimizer.checkpoint_activations=true", "defender.optimizer.checkpoint_activations=true")),
        pytest.param(2, ("engine=zero", "zero.stage=2"), marks=needs_deepspeed),
        pytest.param(2, ("engine=zero", "zero.stage=3"), marks=needs_deepspeed),
    ],
)
def test_a_step_takes_what_is_predicted(ranks, settings, model):
    """Memory within 10%, in float32, and traffic. Packs are full: three attacks' groups, and four responses' groups."""
    overrides = ["batch_size=6", "steps_per_batch=1", *settings]
    for name in PLAYERS:
        overrides += [f"{name}.model={model}", f"{name}.samples=2", f"{name}.sampling.max_new_tokens=64"]
        overrides += [f"{name}.optimizer.tokens_per_pack=1024"]
    config = load_config("tiny", overrides)
    planned = plan(config, shapes_of(config), ranks, cuda=False)
    predicted = memory(planned)
    measured = footprint(ranks, overrides)
    held, peaks = measured["memory"].pop("held"), measured["memory"]
    assert predicted.always == pytest.approx(held, rel=0.1)
    for name, player in planned.players.items():
        moment, sent = f"the {name} learns", traffic(player, planned)
        assert predicted.peaks[moment] == pytest.approx(held + peaks[moment], rel=0.1)
        assert sent.gradients + sent.weights == pytest.approx(measured["sent"][moment], rel=0.01)
        assert sent.refill + sent.compared == pytest.approx(
            measured["sent"][f"the {name}'s sampler is filled"], rel=0.01
        )


def footprint(ranks: int, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Of the first rank."""
    tight = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed is given back
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    ran = subprocess.run([*launcher, FOOTPRINT, *overrides], capture_output=True, text=True, env=os.environ | tight)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
