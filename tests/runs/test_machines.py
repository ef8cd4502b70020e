"""Several machines: two launchers that meet at an address, each with a process, as docs/slurm.sh starts them."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MAIN, MODELS, records, torchrun

from advgame.trainer.run import checkpoint

SCRIPT = MAIN.parent.parent / "docs/slurm.sh"
SCONTROL = "#!/bin/sh\necho 127.0.0.1\necho 127.0.0.1\n"
SRUN = '#!/bin/sh\n"$@" &\nother=$!\n"$@" && wait $other\n'


@pytest.mark.slow
def test_two_machines_under_slurm_play_the_game_of_two_processes_on_one(tmp_path):
    """Slurm itself is not here: `srun` starts the command twice on this machine, whose name `scontrol` tells."""
    together, apart = tmp_path / "together", tmp_path / "apart"
    done = torchrun("--config", "tiny", "steps=2", f"output_dir={together}", processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": str(random.SystemRandom().randrange(10_000)),  # the port depends on it
    }
    command = [str(SCRIPT), "--config", "tiny", "steps=2", f"output_dir={apart}"]
    done = subprocess.run(command, cwd=MAIN.parent.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert records(apart) == records(together)
    assert json.loads((apart / "metrics.jsonl").read_text().splitlines()[0])["timing"]["processes"] == 2
    for name in MODELS:
        ours, theirs = (checkpoint.folder(run, 2) / name / "model.safetensors" for run in (apart, together))
        assert ours.read_bytes() == theirs.read_bytes()
