"""The clock of a run's stages."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from advgame.trainer.base.clock import SAMPLING, Clock, Stage


def test_stages_add_up_until_they_are_taken():
    clock = Clock()
    for stage in (Stage.ATTACK, Stage.SAVE, Stage.ATTACK):
        with clock(stage):
            assert clock.now[0] == stage
            time.sleep(0.01)
    assert clock.now is None
    assert clock.seconds(Stage.ATTACK) >= 0.02 and clock.seconds(Stage.DEFEND) == 0
    assert clock.seconds(*SAMPLING) == clock.seconds(Stage.ATTACK)
    taken = clock.take()
    assert list(taken["stages"]) == ["attacker writes", "saving"]
    assert taken["elapsed"] >= sum(taken["stages"].values()) >= 0.03
    assert clock.take()["stages"] == {}


def test_the_stage_may_be_asked_for_by_another_thread():
    clock, failures, done = Clock(), [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            now = clock.now
            if now is not None and not isinstance(now[0], str):
                failures.append(now)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask)
            for _ in range(20_000):
                with clock(Stage.SAVE):
                    pass
            done.set()
            asking.result()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
