"""SIGTERM and Ctrl-C: a run ends where nothing of what it has finished is lost. A second signal ends it at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from advgame.trainer.base.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ONE_REQUEST = 3.0
"""Seconds in which signals count as one: batch systems signal the launcher and its workers, and it signals them too."""


@dataclass
class _State:
    asked: Stopped | None = None
    at: float = 0.0
    abandonable: bool = False


_state = _State()
"""Of this process, as signals are."""


@contextmanager
def listening(tell: bool) -> Iterator[None]:
    """Signals are noted, for `check` and `abandonable`. tell: say on stderr that one has been."""

    def note(number: int, _: FrameType | None) -> None:
        if _state.asked is None:
            _state.asked, _state.at = Stopped(number), time.monotonic()
            if tell:  # not by print, which a signal may have interrupted
                os.write(2, b"stopping at the next safe point; another signal stops at once\n")
        elif time.monotonic() - _state.at > ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if _state.abandonable:
            _state.abandonable = False
            raise _state.asked

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.asked = None


def stop() -> None:
    """As SIGTERM would, from any thread, unless a signal has come already: this one is no second one."""
    if _state.asked is None:
        os.kill(os.getpid(), signal.SIGTERM)


def check() -> None:
    """Raises Stopped if a signal has come."""
    if _state.asked:
        raise _state.asked


@contextmanager
def abandonable() -> Iterator[None]:
    """Work that a signal cuts short by Stopped: nobody needs what is done of it."""
    _state.abandonable = True
    try:
        check()
        yield
    finally:
        _state.abandonable = False
