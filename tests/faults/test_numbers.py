"""Numbers that ruin a run: no ruined weights are saved, and a resume with better settings gets out of it."""

from pathlib import Path

import pytest
import torch
from faults.forked import start
from helpers import records
from safetensors.torch import load_file

SETTINGS = ("--config", "tiny", "checkpoint.every=1", "steps_per_batch=1")


@pytest.mark.parametrize("lr", ["1e3", "1e30"])
@pytest.mark.parametrize("player", ["attacker", "defender"])
def test_a_learning_rate_that_ruins_the_weights(player, lr, tmp_path, fault):
    run, log = tmp_path / "run", tmp_path / "log"
    ruined = start("train", *SETTINGS, "steps=20", f"{player}.optimizer.lr={lr}", f"output_dir={run}", log=log)
    assert ruined.code in (0, 2) and "Traceback" not in ruined.text, ruined.text
    assert_finite(run)
    saved = start("train", *SETTINGS, "steps=22", f"output_dir={run}", log=tmp_path / "log2")
    assert saved.code == 0, saved.text
    assert_finite(run)
    assert len(records(run)) == 22
    stopped = "the run stopped and said so" if ruined.code else "the run went on"
    fault("numbers", "a learning rate that ruins the weights", f"{stopped}; what was saved is finite and trains on")


def assert_finite(run: Path) -> None:
    for file in run.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.isfinite(tensor).all(), (file, name)
