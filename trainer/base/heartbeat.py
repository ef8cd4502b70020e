"""Each process tells the others that it runs, so that one which is stopped, or whose machine hangs, is named.

One that ends closes its connections, which whoever waits for it sees at once. One that is stopped keeps them open, and
the others would wait in silence.
"""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

END = "end"
"""The last beat of a process that has nothing left to do."""


class Store(Protocol):
    """What all processes read and write: a part of torch.distributed's."""

    def set(self, key: str, value: str) -> None: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...


@dataclass(frozen=True)
class Limits:
    """In seconds."""

    beat: float = 2.0
    notice: float = 30.0
    """Of silence, until it is told of. Long enough for a library call that keeps Python's threads waiting."""
    end: float = 600.0
    """Of silence, until the run is given up."""


LIMITS = Limits()


class Heartbeat:
    """Beats from its making until `stop`, in a thread of its own."""

    def __init__(self, store: Store, rank: int, processes: int, give_up: Callable[[str], None], limits: Limits):
        """give_up: called when another process has been silent for too long, with the reason."""
        self._store, self._rank, self._give_up, self._limits = store, rank, give_up, limits
        self._others = [other for other in range(processes) if other != rank]
        self._stopping = threading.Event()
        self._beat("0")  # so that the others find something
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(self._limits.beat)

    def _run(self) -> None:
        try:
            self._watch()
            self._beat(END)
        except RuntimeError:  # the store is gone, with the launcher or the first process
            pass

    def _beat(self, beat: str) -> None:
        self._store.set(str(self._rank), f"{beat} pid {os.getpid()} on {platform.node()}")

    def _watch(self) -> None:
        limits, last = self._limits, [b""] * len(self._others)
        silence = [0.0] * len(self._others)
        noticed: set[int] = set()
        for beats in count(1):
            began = time.monotonic()
            if self._stopping.wait(limits.beat):
                return
            self._beat(str(beats))
            found = self._store.multi_get([str(other) for other in self._others])
            passed = min(time.monotonic() - began, 2 * limits.beat)  # more: this process was stopped itself
            for i, (other, value) in enumerate(zip(self._others, found, strict=True)):
                beat, who = value.decode().split(" ", 1)
                if value != last[i] or beat == END:
                    if other in noticed:
                        self._tell(f"warning: process {other} ({who}) is back after {silence[i]:.0f} s", noticed)
                        noticed.discard(other)
                    silence[i] = 0.0
                else:
                    silence[i] += passed
                last[i] = value
                if silence[i] >= limits.notice and other not in noticed:
                    noticed.add(other)
                    self._tell(
                        f"warning: process {other} ({who}) has not been heard from for {silence[i]:.0f} s: it is stopped, or "
                        f"its machine hangs; the others wait for it, but no longer than {limits.end:.0f} s",
                        noticed,
                    )
                if silence[i] >= limits.end:
                    error = f"error: process {other} ({who}) has not been heard from for {silence[i]:.0f} s"
                    self._tell(error, noticed)
                    self._give_up(error)

    def _tell(self, what: str, silent: set[int]) -> None:
        """On stderr, by the first process that is not silent."""
        if all(other in silent for other in range(self._rank)):
            print(what, file=sys.stderr, flush=True)
