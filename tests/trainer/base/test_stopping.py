"""Signals: what they cut short, and what they leave alone."""

import os
import signal
import subprocess
import sys

import pytest

from advgame.trainer.base.errors import Stopped
from advgame.trainer.base.stopping import abandonable, check, listening

WAITING = """
import time
from advgame.trainer.base.stopping import ONE_REQUEST, listening
with listening(tell=True):
    print(ONE_REQUEST, flush=True)
    while True:
        time.sleep(0.01)
"""


def strike(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_work_that_nobody_needs_is_cut_short(capfd):
    with listening(tell=False):
        with pytest.raises(Stopped, match="stopped by SIGINT") as stopped, abandonable():
            strike(signal.SIGINT)
            pytest.fail("went on")
        assert stopped.value.number == signal.SIGINT
        with pytest.raises(Stopped), abandonable():
            pytest.fail("was begun after the signal")
    assert capfd.readouterr().err == ""


def test_other_work_is_finished_first():
    with listening(tell=False):
        check()
        with abandonable():
            pass
        strike()
        finished = True
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            check()
    assert finished
    check()  # nobody listens any more


def test_a_second_signal_stops_at_once():
    """Not one that comes with the first, as from a launcher whose whole group was signalled."""
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        one_request = float(process.stdout.readline())
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(one_request + 0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert process.stderr.read().count(b"another signal stops at once") == 1
