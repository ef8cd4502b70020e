"""DeepSpeed's engine against the plain one, over gloo: the same losses, weights and averages, at every stage."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zeroranks
from helpers import needs_deepspeed
from zeroranks import Case

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.engines.zero import import_deepspeed

STAGES, LOSSES = (1, 2, 3), ("dpo", "ipo", "grpo")


def learn_by(processes: int, cases: list[Case], folder: Path) -> None:
    """They check more between themselves (see zeroranks.py)."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = [zeroranks.__file__, str(folder), *map(str, cases)]
    done = subprocess.run([*launcher, *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


def assert_as_single(cases: list[Case], folder: Path, rounding: float = 1e-5) -> None:
    for case in cases:
        learner = zeroranks.pupil(replace(case, stage=0, offload="none"))
        expected, weights = zeroranks.learn(learner), zeroranks.whole(learner)
        actual, found = torch.load(folder / str(case))
        assert torch.allclose(torch.tensor(actual), torch.tensor(expected), rtol=rounding, atol=0), case
        for name, weight in weights.items():
            assert (found[name] - weight).norm() <= rounding * weight.norm(), (case, name)


@needs_deepspeed
def test_shared_out_weights_learn_as_whole_ones_do(tmp_path):
    cases = [Case(3, "grpo", tied=False), Case(3, "dpo", tied=True)]
    learn_by(2, cases, tmp_path)
    assert_as_single(cases, tmp_path)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_stage_and_loss(processes, tmp_path):
    cases = [Case(stage, loss, tied) for stage in STAGES for loss in LOSSES for tied in (False, True)]
    if processes != 2:
        cases = [case for case in cases if case.loss == "dpo" or case.stage == 3]
    learn_by(processes, cases, tmp_path)
    assert_as_single(cases, tmp_path)


@needs_deepspeed
@pytest.mark.slow
def test_what_the_host_keeps_changes_nothing(tmp_path):
    """On a CPU it moves nothing to another memory, but takes the same ways."""
    cases = [Case(stage, offload="optimizer") for stage in STAGES] + [Case(3, offload="idle_player")]
    learn_by(2, cases, tmp_path)
    assert_as_single(cases, tmp_path)


@needs_deepspeed
@pytest.mark.slow
def test_weights_in_bfloat16_have_masters_in_float32(tmp_path):
    """Up to the rounding of weights outside of products, of which single keeps float32 ones."""
    cases = [Case(stage, tied=tied, products="bfloat16") for stage in STAGES for tied in (False, True)]
    learn_by(2, cases, tmp_path)
    assert_as_single(cases, tmp_path, rounding=0.01)


def test_without_deepspeed_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not there
    with pytest.raises(ConfigError, match="engine=zero: deepspeed is not installed"):
        import_deepspeed()
