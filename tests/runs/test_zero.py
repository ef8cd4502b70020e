"""Whole runs on DeepSpeed's engine: the game of plain data parallelism, from and to any number of ranks and stage."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers import MODELS, run_tiny, torchrun
from safetensors.torch import load_file

from advgame.trainer.run import checkpoint

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
    pytest.mark.slow,
]
EXACT = ("attacker.loss.filter_eps=0", "defender.loss.filter_eps=0", "checkpoint.every=2")


def play(run: Path, processes: int, *settings: str) -> None:
    done = torchrun("--config", "tiny", f"output_dir={run}", "engine=zero", *EXACT, *settings, processes=processes)
    assert done.returncode == 0, done.stderr[-4000:]


def assert_same_run(run: Path, other: Path, step: int, rounding: float = 1e-5) -> None:
    """The same samples; losses, weights and averages up to rounding."""
    for file in sorted((run / "samples").iterdir()):
        assert file.read_text() == (other / "samples" / file.name).read_text()
    lines = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, other)]
    for player in ("attacker", "defender"):
        ours, theirs = ({i: line[player]["loss"] for i, line in enumerate(r) if "loss" in line[player]} for r in lines)
        assert ours == pytest.approx(theirs, rel=1e-5) and ours
    for name in MODELS:
        folders = (checkpoint.folder(r, step) / name for r in (run, other))
        ours, theirs = (load_file(next(folder.glob("*model.safetensors"))) for folder in folders)
        assert ours.keys() == theirs.keys()
        for key, weight in ours.items():
            assert (weight - theirs[key]).norm() <= rounding * weight.norm(), (name, key)


def test_a_game_is_the_same_and_goes_on_with_other_ranks_and_stages(tmp_path):
    single = run_tiny(tmp_path / "single", *EXACT, "steps=6")
    play(tmp_path / "zero", 2, "steps=2")
    play(tmp_path / "zero", 4, "steps=4", "zero.stage=2")
    play(tmp_path / "zero", 1, "steps=6")
    assert_same_run(single, tmp_path / "zero", 6)


def test_a_run_goes_on_bit_for_bit_with_evaluations_and_a_recomputed_reference(tmp_path):
    settings = (
        "steps=4", "defender.reference=recompute", "defender.reference_decay=0.5", "eval.every=2",
        "eval.seeds=[tiny.jsonl]", "eval.limit=4",
    )  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    play(whole, 2, *settings)
    play(cut, 2, *settings[1:], "steps=2")
    play(cut, 2, *settings)
    files = sorted(p.relative_to(whole) for p in checkpoint.folder(whole, 4).rglob("*.safetensors"))
    assert len(files) == 7 and all((whole / file).read_bytes() == (cut / file).read_bytes() for file in files)
    single = run_tiny(tmp_path / "single", *EXACT, *settings)
    assert_same_run(single, whole, 4)


def test_adapters_are_shared_out_over_a_base_that_is_too(tmp_path):
    lora = ("attacker.lora.rank=4", "defender.lora.rank=2", "steps=4")
    single = run_tiny(tmp_path / "single", *EXACT, *lora)
    play(tmp_path / "zero", 2, *lora, "steps=2")
    play(tmp_path / "zero", 1, *lora, "zero.stage=1")
    assert_same_run(single, tmp_path / "zero", 4, rounding=1e-4)  # they began at 0; two ranks are as far from one
