"""DeepSpeed's engine against the plain one, over gloo: the same losses, weights and averages, at every stage."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import zeroranks

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.engines.zero import import_deepspeed

without_deepspeed = importlib.util.find_spec("deepspeed") is None
needs_deepspeed = pytest.mark.skipif(without_deepspeed, reason="deepspeed is not installed")


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "stages", "losses"),
    [(1, "1,2,3", "dpo"), (2, "1,2,3", "dpo,grpo"), (4, "3", "dpo,ipo,grpo")],
)
def test_every_stage_learns_as_one_process_does(processes, stages, losses, tmp_path):
    """The processes check more between themselves (see zeroranks.py)."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [zeroranks.__file__, str(tmp_path), stages, losses]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for loss in losses.split(","):
        for tied in (False, True):
            learner = zeroranks.pupil(loss, tied, stage=0)
            expected, weights = zeroranks.learn(learner, loss), zeroranks.whole(learner)
            for stage in stages.split(","):
                actual, found = torch.load(tmp_path / f"{stage}-{loss}-{tied}")
                assert torch.allclose(torch.tensor(actual), torch.tensor(expected), rtol=1e-5, atol=0)
                for name, weight in weights.items():
                    assert (found[name] - weight).norm() <= 1e-5 * weight.norm(), name


@pytest.mark.skipif(not without_deepspeed, reason="deepspeed is installed")
def test_without_deepspeed_it_says_what_to_do():
    with pytest.raises(ConfigError, match="engine=zero: deepspeed is not installed"):
        import_deepspeed()
