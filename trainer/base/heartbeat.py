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


SILENT_STORE = (
    "process {rank} hears nothing of the others for {seconds:.0f} s: torchrun on the first machine, or the first "
    "process, is stopped, or that machine hangs"
)
"""Only told of: a launcher that is stopped keeps no process from its work."""


@dataclass
class _Other:
    """What is known of another process."""

    rank: int
    beat: str = ""
    silence: float = 0.0


class Heartbeat:
    """Beats from its making until `stop`: one thread talks to the store, one watches what comes of it."""

    def __init__(self, store: Store, rank: int, processes: int, report: Callable[[str], None], limits: Limits):
        """report: is told why this process ends, before it does: another has been silent for too long."""
        self._store, self._rank, self._report, self._limits = store, rank, report, limits
        self._others = [_Other(other) for other in range(processes) if other != rank]
        self._found: list[str] | None = None
        """What the others sent, if the store has answered since the last look."""
        self._store_ended = False
        self._stopping = threading.Event()
        self._send("0")  # so that the others find something
        self._talking = threading.Thread(target=self._talk, daemon=True)
        self._talking.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._talking.join(self._limits.beat)

    def _send(self, beat: str) -> None:
        self._store.set(str(self._rank), f"{beat} pid {os.getpid()} on {platform.node()}")

    def _talk(self) -> None:
        try:
            for beats in count(1):
                found = self._store.multi_get([str(other.rank) for other in self._others])
                self._found = [beat.decode() for beat in found]
                if self._stopping.wait(self._limits.beat):
                    self._send(END)
                    return
                self._send(str(beats))
        except RuntimeError:  # with the launcher or the first process, and nothing more will be heard of anyone
            self._store_ended = True

    def _watch(self) -> None:
        unanswered, looked, heard = 0.0, time.monotonic(), [other.beat for other in self._others]
        while not self._stopping.wait(self._limits.beat):
            now = time.monotonic()
            passed, looked = min(now - looked, 2 * self._limits.beat), now  # more: this process was stopped itself
            found, self._found = self._found, None
            if found is None and not self._store_ended:  # as it may be once in a while, since two threads take turns
                before, unanswered = unanswered, unanswered + passed
                if before < self._limits.notice <= unanswered:
                    warning = SILENT_STORE.format(rank=self._rank, seconds=unanswered)
                    print(f"warning: {warning}", file=sys.stderr, flush=True)
                continue
            unanswered, heard = 0.0, found or heard
            for other, beat in zip(self._others, heard, strict=True):
                self._hear(other, beat, passed)

    def _hear(self, other: _Other, beat: str, passed: float) -> None:
        """`beat` is what is known of the other process, `passed` seconds after the last look."""
        name = f"process {other.rank} ({beat.partition(' ')[2]})"
        before = other.silence
        if beat != other.beat or beat.startswith(END):
            other.beat, other.silence = beat, 0.0
            if before >= self._limits.notice:
                self._tell(f"warning: {name} is back after {before:.0f} s")
            return
        other.silence += passed
        silence = f"{name} has not been heard from for {other.silence:.0f} s"
        if before < self._limits.notice <= other.silence:
            self._tell(
                f"warning: {silence}: it is stopped, or its machine hangs; "
                f"the others wait no longer than {self._limits.end:.0f} s"
            )
        if other.silence >= self._limits.end:
            self._tell(f"error: {silence}")
            self._report(f"error: {silence}")
            os._exit(2)  # whatever the main thread waits for

    def _tell(self, what: str) -> None:
        """On stderr, by the first process that is not silent."""
        if all(other.silence >= self._limits.notice for other in self._others if other.rank < self._rank):
            print(what, file=sys.stderr, flush=True)
