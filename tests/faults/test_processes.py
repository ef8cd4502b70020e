"""Processes that are stopped, told to end, started twice, or left alone by their launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from faults.forked import Command, start, start_ranks
from faults.runs import SETTINGS, assert_same
from helpers import MAIN, records

LONG = ("--config", "tiny", "steps=100000", "checkpoint.every=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start("train", *SETTINGS, f"output_dir={folder}", log=folder.with_suffix(".log")).code == 0
    return folder


def until_steps(run: Path, steps: int, command: Command) -> None:
    """Waits until the run has made so many steps."""
    while not (run / "metrics.jsonl").exists() or len(records(run)) < steps:
        assert command.process.is_alive(), command.text
        time.sleep(0.005)


def test_told_to_end(undisturbed, tmp_path, fault, times):
    """As schedulers do before they kill: it saves, and exits with 0."""
    for steps in range(1, times(2, 6)):
        run = tmp_path / str(steps)
        command = start("train", *SETTINGS, f"output_dir={run}", log=run.with_suffix(".log"))
        until_steps(run, steps, command)
        command.process.terminate()
        assert command.code == 0 and "Traceback" not in command.text, command.text
        resumed = start("train", *SETTINGS, f"output_dir={run}", log=run.with_suffix(".log"))
        assert resumed.code == 0
        assert_same(run, undisturbed)
        fault("processes", "SIGTERM", "saved, exited with 0, went on bit-identical")


def test_two_runs_in_one_folder(tmp_path, fault):
    run = tmp_path / "run"
    first = start("train", *LONG, f"output_dir={run}", log=tmp_path / "first.log")
    until_steps(run, 1, first)
    second = start("train", *LONG, f"output_dir={run}", log=tmp_path / "second.log")
    assert second.code == 2 and len(second.errors) == 1, second.text
    assert str(first.process.pid) in second.errors[0] and os.uname().nodename in second.errors[0], second.errors
    first.process.kill()
    assert first.code == -9
    assert start("train", *LONG, f"output_dir={run}", "steps=3", log=tmp_path / "third.log").code in (0, 2)
    fault(
        "processes",
        "a second run in the same folder",
        "refused in one line, which names the first one's process and host",
    )


@pytest.mark.slow
def test_a_rank_that_is_stopped(tmp_path, fault):
    """It is named while it is stopped; when it goes on, so does the run."""
    folders = tmp_path / "undisturbed", tmp_path / "run"
    for folder in folders:
        ranks = start_ranks(2, "train", *SETTINGS, f"output_dir={folder}", log=folder.with_suffix(".log"))
        if folder.name == "run":
            until_steps(folder, 2, ranks[0])
            os.kill(ranks[1].process.pid, signal.SIGSTOP)
            struck = time.monotonic()
            while f"pid {ranks[1].process.pid}" not in ranks[0].text:
                assert ranks[0].process.is_alive() and time.monotonic() - struck < 60, ranks[0].text
                time.sleep(0.05)
            noticed = time.monotonic() - struck
            os.kill(ranks[1].process.pid, signal.SIGCONT)
        assert [rank.code for rank in ranks] == [0, 0]
    assert_same(*folders)
    outcome = f"named by process and host after {noticed:.0f} s, went on bit-identical after SIGCONT"
    fault("processes", "SIGSTOP of one of two ranks", outcome)


def test_workers_end_with_their_launcher(tmp_path, fault):
    run = tmp_path / "run"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", MAIN, *LONG,
         f"output_dir={run}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (run / "metrics.jsonl").exists():
        assert launcher.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    for process in alive:
        process.kill()
    assert not alive
    fault("processes", "kill -9 of torchrun", f"its {len(workers)} processes ended as well")
