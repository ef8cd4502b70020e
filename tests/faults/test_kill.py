"""kill -9 at random instants: a run that goes on afterwards is bit-identical to one that was never disturbed."""

import itertools
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from faults.forked import Command, start_ranks
from faults.runs import SETTINGS, assert_same
from helpers import needs_deepspeed

INSTANTS = ("sampling", "judging", "backward", "optimiser", "saving", "renaming")


class Kills(NamedTuple):
    """Of one kind of run: how often one is killed in the quick half, and in all of it."""

    name: str
    engine: str
    processes: int
    quick: int
    full: int


KILLS = (
    Kills("kill -9 of a run", "single", 1, 6, 70),
    Kills("kill -9 of one of two ranks", "single", 2, 2, 30),
    Kills("kill -9 of one of two ranks that share both players out (ZeRO, stage 3)", "zero", 2, 1, 30),
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow, needs_deepspeed] if case.engine == "zero" else []) for case in KILLS],
    ids=lambda case: f"{case.engine}-{case.processes}",
)
def test_killed_at_random_instants(case, tmp_path, fault, times, seed):
    """Each life of a run ends at a random instant of a stage; when a run is done in spite of that, another begins."""
    draw, undisturbed = random.Random(seed), tmp_path / "undisturbed"
    lasted = durations(run(case, undisturbed))
    kills, runs, slowest = times(case.quick, case.full), 0, 0.0
    died: Counter[str] = Counter()
    while died.total() < kills:
        runs += 1
        folder, done = tmp_path / str(runs), False
        while not done:
            instant = INSTANTS[died.total() % len(INSTANTS)]
            victim = 0 if instant in ("saving", "renaming") else draw.randrange(case.processes)  # the first one saves
            ranks = run(case, folder)
            aim = (instant, draw.randint(1, 4), draw.uniform(0, lasted[instant]))
            was_doing = kill(ranks[victim], *aim) if died.total() < kills else None
            if was_doing:
                died[was_doing] += 1
                struck = time.monotonic()
                assert all(rank.code is not None for rank in ranks)  # the other one notices, and ends as well
                slowest = max(slowest, time.monotonic() - struck)
            else:
                assert [rank.code for rank in ranks] == [0] * case.processes, ranks[0].text
                done = True
        assert_same(folder, undisturbed)
    outcome = f"resumed to the end, bit-identical (killed while {', '.join(f'{k} {n}' for k, n in died.most_common())})"
    if case.processes > 1:
        outcome += f"; the other rank ended {slowest:.1f} s later at the latest"
    fault("processes", case.name, outcome, times=kills)


def run(case: Kills, folder: Path) -> list[Command]:
    log, settings = folder.with_suffix(".log"), (*SETTINGS, f"engine={case.engine}", f"output_dir={folder}")
    return start_ranks(case.processes, "train", *settings, log=log, watched=True)


def durations(ranks: list[Command]) -> dict[str, float]:
    """The longest that the first process spent on each thing, in seconds."""
    told = list(ranks[0].doing())
    assert [rank.code for rank in ranks] == [0] * len(ranks), ranks[0].text
    lasted: dict[str, float] = {}
    for (what, began), (_, ended) in itertools.pairwise(told):
        lasted[what] = max(lasted.get(what, 0.0), ended - began)
    return lasted


def kill(command: Command, instant: str, occurrence: int, delay: float) -> str | None:
    """Kills the command so long after it began something for that time. What it was doing; None if it had ended."""
    done = []
    for what, _ in command.doing():
        done.append(what)
        if what == instant and done.count(instant) == occurrence:
            time.sleep(delay)
            command.process.kill()
    return done[-1] if command.code == -9 else None
