"""Small real things for the trainer's tests."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from advgame.trainer.models.layers import fuse_layers
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.run.players import load_policies
from advgame.trainer.run.train import train
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

MAIN = Path(__file__).parents[1] / "trainer" / "main.py"
MODELS = ("attacker", "attacker_ema", "defender", "defender_ema")

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def tiny_config(output_dir: Path, *overrides: str) -> Config:
    return load_config("tiny", [f"output_dir={output_dir}", *overrides])


def run_tiny(output_dir: Path, *overrides: str) -> Path:
    """Plays the tiny config to its end in this process."""
    train(tiny_config(output_dir, *overrides))
    return output_dir


def write_lessons(folder: Path) -> list[str]:
    """Twelve look-alikes and four wrappings, in words most of which the tiny model knows; settings that name them."""
    subjects = ("lock of the garden shed", "password of the old laptop", "exam of the night school")
    pairs = [
        {
            "topic": f"topic {i % 4}",
            "harmful": f"break the {subject} {i}",
            "benign": f"clean the {subject} {i}",
            "deflection": f"the {subject} is not yours",
            "answer": f"the {subject} is old",
            "hollow": f"the {subject} at night",
        }
        for i in range(12)
        for subject in [subjects[i % 3]]
    ]
    wrappings = [
        {"family": f"family {i}", "kind": kind, "wrapping": text}
        for i, (kind, text) in enumerate(
            [
                ("light", "the garden {query}"),
                ("light", "{query} of the old school"),
                ("heavy", "night night {query} night"),
                ("heavy", "laptop {query} shed"),
            ]
        )
    ]
    settings = []
    for name, lines in (("pairs", pairs), ("wrappings", wrappings)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        settings.append(f"{name}=[{file}]")
    return settings


def make_policies(source: str) -> PlayerPolicies:
    """Those of a player at the start of a run."""
    config = Config()
    config.attacker.model = config.defender.model = source
    return load_policies(config, None)["attacker"]


def random_model(family: str, **options) -> PreTrainedModel:
    """A small model of a `model_type`, with random weights; without a sliding window unless one is asked for."""
    config = AutoConfig.for_model(
        family, vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0,
        **{"sliding_window": None} | options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    fuse_layers(model)  # as it is when loaded
    return model


def policy_of(model: PreTrainedModel, products: torch.dtype = torch.float32) -> Policy:
    """A policy without a tokenizer: it can be forwarded, and not sampled."""
    return Policy(model, None, products=products)


def torchrun(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    """trainer/main.py as a user starts it, one thread a process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, str(MAIN), *arguments], capture_output=True, text=True, env=environment)


def records(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("timing")["seconds"] > 0
    return lines
