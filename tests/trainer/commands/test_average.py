"""`advgame average`: the mean of saved players, which is measured and attacks like any checkpoint's."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import run_tiny
from safetensors.torch import load_file

from advgame.trainer.commands.main import main
from advgame.trainer.models.load import load_policy
from advgame.trainer.run.checkpoint import folder

THREE = ("steps=3", "steps_per_batch=1", "checkpoint.every=1", "checkpoint.keep=3")
LIVELY = ("defender.optimizer.lr=0.1", "defender.optimizer.warmup_steps=0")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> Path:
    """A run whose attacker never changes, and its mean."""
    run = run_tiny(tmp_path_factory.mktemp("averaged") / "run", *THREE, *LIVELY, "attacker.train=false")
    assert main(["average", str(run)]) == 0
    return run


def weights(players: Path, name: str, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return {key: tensor.double() for key, tensor in load_file(players / name / file).items()}


def assert_mean(run: Path, name: str, steps: list[int], file: str = "model.safetensors") -> None:
    saved = [weights(folder(run, step), name, file) for step in steps]
    found = weights(run / "average", name, file)
    assert found.keys() == saved[0].keys()
    for key, mean in found.items():
        torch.testing.assert_close(mean, sum(part[key] for part in saved) / len(saved), rtol=1e-6, atol=1e-9)
    assert any((found[key] - saved[-1][key]).abs().max() > 1e-4 for key in found)  # or they were all the same


def test_the_mean_is_of_the_weights_that_play(averaged):
    assert_mean(averaged, "defender_ema", [1, 2, 3])


def test_the_mean_of_equal_weights_is_equal(averaged):
    first, mean = weights(folder(averaged, 1), "attacker_ema"), weights(averaged / "average", "attacker_ema")
    assert all(torch.equal(first[key], mean[key]) for key in first | mean)


def test_fewer_may_be_averaged_and_other_weights(tmp_path):
    run = run_tiny(tmp_path / "run", *THREE, *LIVELY)
    assert (
        main(["average", str(run), "--last", "2", "defender.sample_from=policy", "defender.reference=recompute"]) == 0
    )
    assert_mean(run, "defender", [2, 3])
    assert main(["evaluate", str(run / "average"), "eval.every=1", "eval.seeds=[tiny.jsonl]", "eval.limit=2"]) == 0


def test_adapters_are_averaged_and_remain_adapters(tmp_path):
    pytest.importorskip("peft")
    run = run_tiny(tmp_path / "run", *THREE, *LIVELY, "attacker.lora.rank=2", "defender.lora.rank=2")
    assert main(["average", str(run)]) == 0
    assert_mean(run, "defender_ema", [1, 2, 3], "adapter_model.safetensors")
    load_policy(run / "average" / "defender_ema")


def test_the_mean_is_measured_like_a_checkpoint(averaged, tmp_path, capsys):
    measured = ("eval.every=1", "eval.seeds=[tiny.jsonl]", "eval.limit=6")
    results = {}
    for name, players in (("mean", averaged / "average"), ("last", averaged)):
        assert main(["evaluate", str(players), *measured, "--json", str(tmp_path / name)]) == 0
        results[name] = json.loads((tmp_path / name).read_text())
    assert "mean of steps 1, 2, 3" in " ".join(capsys.readouterr().out.split())
    assert results["mean"].pop("mean_of") == [1, 2, 3]
    assert results["mean"]["start"] == results["last"]["start"]
    assert results["mean"] != results["last"]


def test_the_mean_attacks_with_the_settings_of_its_run(averaged, tmp_path):
    attacker, seeds = str(averaged / "average" / "attacker_ema"), tmp_path / "seeds.jsonl"
    seeds.write_text('{"prompt": "break the lock", "category": "harmful"}\n')
    options = ["--target", "tiny", "--seeds", str(seeds), "--out", str(tmp_path / "out")]
    assert main(["redteam", "--attacker", attacker, *options]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["average", "{run}", "--last", "1"], "--last 1: a mean is of 2 checkpoints or more"),
        (["average", "{run}", "--last", "4"], r"--last 4: .*checkpoints has 3; .* larger checkpoint\.keep"),
        (["average", "{run}/nowhere"], "not a run's folder"),
        (["average", "{run}", "defender.sample_fom=policy"], "did you mean defender.sample_from"),
        (["evaluate", "{run}/average", "--step", "3"], "--step 3: .* is the mean of several"),
    ],
)
def test_what_is_wrong_is_named(averaged, arguments, message, capsys):
    assert main([argument.format(run=averaged) for argument in arguments]) == 2
    assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)


def test_a_mean_that_has_changed_is_refused(tmp_path, capsys):
    run = run_tiny(tmp_path / "run", *THREE)
    assert main(["average", str(run)]) == 0
    file = run / "average" / "defender_ema" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["evaluate", str(run / "average"), "eval.every=1", "eval.seeds=[tiny.jsonl]"]) == 2
    assert "is damaged: it is not as it was written; make the mean again" in capsys.readouterr().err
    assert main(["average", str(run)]) == 0
    assert main(["evaluate", str(run / "average"), "eval.every=1", "eval.seeds=[tiny.jsonl]", "eval.limit=2"]) == 0
