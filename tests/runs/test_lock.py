"""One run at a time writes to a folder, whatever becomes of its processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import MAIN, records, torchrun

ARGUMENTS = ("--config", "tiny", "steps=4")


@pytest.fixture
def running(tmp_path):
    """A run that has begun to write, and will not end before the test."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(MAIN), "--config", "tiny", f"output_dir={run}", "steps=100000", "checkpoint.every=2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (run / "checkpoints" / "step-000004").exists():
            assert process.poll() is None, "it ended"
            time.sleep(0.01)
        yield run, process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_run_is_told_of_the_first(running, processes):
    run, process = running
    done = torchrun(*ARGUMENTS, f"output_dir={run}", processes=processes)
    who = f"process {process.pid} on {os.uname().nodename}, since "
    assert done.returncode != 0 and process.poll() is None
    assert (
        f"error: output_dir={run}: another run is writing there; wait for it, or choose another output_dir: {who}"
        in (done.stderr)
    )
    assert "ConfigError" not in done.stderr  # in a traceback of ours


def test_a_killed_run_leaves_no_lock(running):
    run, process = running
    process.kill()
    process.wait()
    assert (run / "lock").exists()
    done = torchrun(
        *ARGUMENTS, f"output_dir={run}", f"steps={len(Path(run / 'metrics.jsonl').read_text().splitlines()) + 2}"
    )
    assert done.returncode == 0, done.stderr
    steps = [line["step"] for line in records(run)]
    assert steps == list(range(1, len(steps) + 1)) and not (run / "lock").exists()
