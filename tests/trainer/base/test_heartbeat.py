"""Processes that fall silent: real ones, stopped by real signals, without a launcher that would clean up."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from advgame.trainer.base import collectives
from advgame.trainer.base.heartbeat import Limits

limits = Limits(beat=0.1, notice=1.0, end=float(sys.argv[1]))
collectives.start(lambda reason: print("reported", reason, flush=True), limits)
print("started", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
assert collectives.gather([collectives.rank()]) == [0, 1, 2]
collectives.stop()
"""


@contextmanager
def three(tmp_path: Path, end: float) -> Iterator[list[subprocess.Popen]]:
    """Processes that wait for the file `go`, and then for each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(end), str(tmp_path / "go")]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command,
            env=os.environ | world | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "started\n", process.stderr.read()
        yield started
    finally:
        for process in started:
            process.kill()  # a stopped one too
            process.communicate()


@pytest.mark.parametrize("silent", [1, 2])
def test_a_process_that_is_stopped_is_named_and_then_given_up(tmp_path, silent):
    with three(tmp_path, end=2.0) as started:
        started[silent].send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        others = [process for process in started if process is not started[silent]]
        told = [process.communicate() for process in others]
        assert [process.returncode for process in others] == [2, 2]
        assert started[silent].poll() is None
    name = f"process {silent} (pid {started[silent].pid} on {os.uname().nodename}) has not been heard from for "
    # One of them speaks; the second does too if it is so late that it misses the first, which has ended by then.
    # (torch's store has words of its own for an end that it did not expect.)
    said = [line for line in told[1][1].splitlines() if line.startswith(("warning: ", "error: "))]
    assert not said or said[0].startswith("warning: process 0 ")
    warning, error = (line for line in told[0][1].splitlines() if line.startswith(("warning: ", "error: ")))
    assert warning.startswith(f"warning: {name}") and warning.endswith("the others wait no longer than 2 s")
    assert error.startswith(f"error: {name}")
    assert all(out.startswith(f"reported error: {name}") for out, _ in told)


def test_the_first_process_that_is_stopped_is_named(tmp_path):
    """Without torchrun, it is also the one that the others hear of each other through."""
    with three(tmp_path, end=60.0) as started:
        started[0].send_signal(signal.SIGSTOP)
        for rank in (1, 2):
            line = started[rank].stderr.readline()
            assert line.startswith(
                f"warning: process {rank} hears nothing of the others for 1 s: torchrun on the first"
            )
        started[0].send_signal(signal.SIGCONT)
        (tmp_path / "go").touch()
        assert [process.wait() for process in started] == [0, 0, 0]


def test_a_process_that_comes_back_is_waited_for(tmp_path):
    with three(tmp_path, end=60.0) as started:
        started[1].send_signal(signal.SIGSTOP)
        assert f"process 1 (pid {started[1].pid}" in started[0].stderr.readline()
        started[1].send_signal(signal.SIGCONT)
        assert "is back after" in started[0].stderr.readline()
        (tmp_path / "go").touch()
        assert [process.wait() for process in started] == [0, 0, 0]


def test_a_machine_that_sleeps_is_no_silence(tmp_path):
    """All processes are stopped at once, for longer than the limit."""
    with three(tmp_path, end=2.0) as started:
        for process in started:
            process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        for process in started:
            process.send_signal(signal.SIGCONT)
        time.sleep(1)
        (tmp_path / "go").touch()
        assert [process.wait() for process in started] == [0, 0, 0]
        assert [process.stderr.read() for process in started] == ["", "", ""]


def test_a_process_that_is_stopped_keeps_none_for_ever_when_the_first_one_has_ended(tmp_path):
    """Nothing is heard of anyone any more. gloo may see that a connection is closed, or wait for the stopped one."""
    with three(tmp_path, end=2.0) as started:
        started[1].send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        time.sleep(0.5)
        started[0].kill()
        out, error = started[2].communicate()
        assert (started[2].returncode == 2 and out.startswith("reported error: process ")) or "gloo" in error
