"""Runs that are stopped by signals: real ones, to a process, to torchrun, to a launcher that cannot pass them on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import MAIN, MODELS, records, torchrun
from safetensors.torch import load_file

from advgame.trainer.run import checkpoint

RUN = ("--config", "tiny", "steps=24", "batch_size=4", "steps_per_batch=4", "checkpoint.every=1000")
EVALUATED = (*RUN, "eval.every=3", "eval.seeds=[tiny.jsonl]")
"""Most of the time goes into evaluations, so that signals fall into them too."""


def start(*arguments: str, processes: int = 1) -> subprocess.Popen:
    """torchrun with more than one process, else the trainer itself."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(MAIN), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for(process: subprocess.Popen, run: Path, lines: int) -> None:
    """Until so many steps are recorded, or the process has ended."""
    while lines_of(run) < lines and process.poll() is None:
        time.sleep(0.002)


def children(parent: int) -> list[int]:
    """The processes that a process has started, as Linux knows them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def assert_equal(run: Path, whole: Path) -> None:
    assert records(run) == records(whole)
    for name in ("evaluation.jsonl", *(f"samples/step-{step:06d}.txt" for step in range(1, 25))):
        assert (run / name).exists() == (whole / name).exists()
        assert not (whole / name).exists() or (run / name).read_bytes() == (whole / name).read_bytes(), name
    names = [*(f"{name}/model" for name in MODELS), "attacker_optimizer", "defender_optimizer"]
    for name in names:
        stopped, undisturbed = (load_file(checkpoint.folder(r, 24) / f"{name}.safetensors") for r in (run, whole))
        assert all(stopped[key].equal(undisturbed[key]) for key in undisturbed), name


def assert_saved(run: Path) -> None:
    """What is recorded is in a checkpoint."""
    assert checkpoint.finished(run)[-1] == lines_of(run)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=lambda value: getattr(value, "name", value)
)
def test_a_signal_saves_the_last_finished_step(tmp_path, number, code):
    process = start(*RUN, "steps=1000", f"output_dir={tmp_path}")
    wait_for(process, tmp_path, 2)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == code
    told, last = error.splitlines()
    assert told == "stopping at the next safe point; another signal stops at once"
    assert last == f"stopped by {number.name}; the same command continues from the newest checkpoint"
    assert_saved(tmp_path)


def test_a_signal_while_models_are_loaded_leaves_no_checkpoint(tmp_path):
    process = start(*RUN, f"output_dir={tmp_path}")
    while not (tmp_path / "config.yaml").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 0 and "stopped by SIGTERM" in error
    assert lines_of(tmp_path) == 0 and checkpoint.finished(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_stopped_again_and_again_is_bit_identical(tmp_path, processes):
    run, whole = tmp_path / "run", tmp_path / "whole"
    undisturbed = start(*EVALUATED, f"output_dir={whole}", processes=processes)
    out, error = undisturbed.communicate()
    assert undisturbed.returncode == 0, error
    instants, stops = random.Random(processes), 0
    while True:
        process = start(*EVALUATED, f"output_dir={run}", processes=processes)
        wait_for(process, run, lines_of(run) + instants.randrange(1, 4))
        time.sleep(instants.random() / 3)  # somewhere in a batch, a step, an evaluation or a save
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate()
        assert "stopped by SIGTERM" in error or "resources" in out, error
        assert_saved(run)
        stops += 1
    assert process.returncode == 0 and stops > 2
    assert_equal(run, whole)


@pytest.mark.slow
def test_workers_end_with_their_launcher(tmp_path):
    """kill -9 of torchrun: it cannot tell them."""
    process = start(*RUN, "steps=1000", f"output_dir={tmp_path}", processes=2)
    wait_for(process, tmp_path, 2)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.1)
    assert "stopped by SIGTERM" in process.stderr.read()
    assert_saved(tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path):
    process = start(*RUN, "steps=1000", f"output_dir={tmp_path}", processes=2)
    wait_for(process, tmp_path, 2)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 0 and error.count("stopped by SIGTERM") == 1
    assert_saved(tmp_path)


@pytest.mark.slow
def test_a_process_that_is_stopped_is_named(tmp_path):
    """By its number, its id and its machine; and the run goes on with it."""
    process = start(*RUN, f"output_dir={tmp_path / 'run'}", processes=2)
    wait_for(process, tmp_path / "run", 2)
    worker = children(process.pid)[1]
    os.kill(worker, signal.SIGSTOP)
    while "has not been heard from" not in (line := process.stderr.readline()):
        assert process.poll() is None
    os.kill(worker, signal.SIGCONT)
    assert line.startswith("warning: process ") and f"(pid {worker} on {os.uname().nodename})" in line
    _, rest = process.communicate()
    assert process.returncode == 0 and "is back after" in rest
    done = torchrun(*RUN, f"output_dir={tmp_path / 'whole'}", processes=2)
    assert done.returncode == 0
    assert_equal(tmp_path / "run", tmp_path / "whole")
