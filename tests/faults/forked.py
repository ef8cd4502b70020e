"""Commands in processes of their own, forked from one that has imported everything: they start in no time.

A command may be watched: it then tells through a pipe what it is doing, so that a test can strike at that moment.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a process with threads must not be forked

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.commands.main import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["advgame.trainer.run.train", "matplotlib.backends.backend_agg", "httpx2"])

STARTED: list[BaseProcess] = []

DOING = {
    Stage.LOAD: "loading",
    Stage.REFRESH: "loading",
    Stage.ATTACK: "sampling",
    Stage.CHECK: "judging",
    Stage.DEFEND: "sampling",
    Stage.GRADE: "judging",
    Stage.ATTACKER_LEARNS: "forward",
    Stage.DEFENDER_LEARNS: "forward",
    Stage.EVALUATE: "evaluating",
    Stage.SAVE: "saving",
}


@dataclass(frozen=True)
class Command:
    """One that is under way."""

    process: BaseProcess
    log: Path
    """What it printed, on both streams."""
    told: Connection
    """What it is doing, if it is watched."""

    @property
    def code(self) -> int:
        """Its exit code, for which this waits; minus the signal's number if it was killed."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"still running after two minutes: {self.text}"
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def errors(self) -> list[str]:
        """The lines of errors that it gave."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]

    def doing(self) -> Iterator[tuple[str, float]]:
        """(what it begins to do, when), as long as it lives."""
        try:
            while True:
                yield self.told.recv()
        except EOFError:
            return


def start(*arguments: str, log: Path, watched: bool = False, **environment: str) -> Command:
    """`advgame …`, with variables beside those of this process."""
    told, tell = Pipe(duplex=False)
    handed = (arguments, log, tell if watched else None, os.environ | environment)
    process = SERVER.Process(target=_run, args=handed, daemon=True)
    process.start()
    tell.close()
    STARTED.append(process)
    return Command(process, log, told)


def end_all() -> None:
    """Kills what was started and still runs."""
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.join()


def start_ranks(processes: int, *arguments: str, log: Path, watched: bool = False) -> list[Command]:
    """As torchrun would start them; each has its own log."""
    if processes == 1:
        return [start(*arguments, log=log, watched=watched)]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    return [
        start(
            *arguments,
            log=log.with_name(f"{log.name}.{rank}"),
            watched=watched,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **meeting,
        )
        for rank in range(processes)
    ]


def _run(arguments: tuple[str, ...], log: Path, tell: Connection | None, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if tell:
        _watch(tell)
    sys.exit(main(list(arguments)))


def _watch(tell: Connection) -> None:
    """From now on this process tells what it is doing."""

    def now(what: str) -> None:
        tell.send((what, time.monotonic()))

    timed, backward = Clock.__call__, torch.autograd.backward

    @contextmanager
    def stage(clock: Clock, stage: Stage) -> Iterator[None]:
        now(DOING[stage])
        with timed(clock, stage):
            yield
        now("between stages")

    def differentiate(*tensors, **options) -> None:
        now("backward")
        backward(*tensors, **options)

    Clock.__call__, torch.autograd.backward = stage, differentiate
    register_optimizer_step_pre_hook(lambda *_: now("optimiser"))
    sys.addaudithook(lambda event, _: now("renaming") if event == "os.rename" else None)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
