"""docs/faults.md: a table of the faults that a run of the suite injected, and what became of each."""

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).with_name("peers.json")
"""What peers do with the same input: the name of a fault -> words. peers.py writes it."""

DOORS = {
    "processes": "Processes",
    "files": "Files",
    "servers": "Servers",
    "input": "Input",
    "numbers": "Numbers and kernels",
    "time": "Time",
}


@dataclass(frozen=True)
class Fault:
    """What was injected, and what became of it."""

    door: str
    """Where it came in: a key of DOORS."""
    name: str
    outcome: str
    wrong: str = "nothing"
    """What was lost or silently wrong."""
    times: int = 1
    peer: str = ""
    """What a peer did with the same input, where the test asked one."""


def write_page(file: Path, faults: list[Fault], seed: int) -> None:
    file.write_text("\n".join(lines(faults, seed)) + "\n", encoding="utf-8")


def lines(faults: list[Fault], seed: int) -> Iterator[str]:
    """Its lines: a table for each door, a row for each name."""
    peers = json.loads(PEERS.read_text(encoding="utf-8")) if PEERS.exists() else {}
    total = sum(fault.times for fault in faults)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    yield INTRODUCTION.format(total=total, seed=seed, machine=machine, versions=peers.get("versions"))
    for door, title in DOORS.items():
        names = dict.fromkeys(fault.name for fault in faults if fault.door == door)
        if names:
            yield f"\n## {title}\n"
            yield "| fault | times injected | outcome | lost or silently wrong | peers |"
            yield "| --- | --- | --- | --- | --- |"
        for name in names:
            same = [fault for fault in faults if (fault.door, fault.name) == (door, name)]
            outcomes, wrong = (counted(same, part) for part in ("outcome", "wrong"))
            peer = peers.get(name, same[-1].peer)
            yield f"| {name} | {sum(f.times for f in same):,} | {outcomes} | {wrong} | {peer} |"
    yield CONCLUSION


def counted(faults: list[Fault], part: str) -> str:
    """The words of a field, each with how often it was the case if there are several."""
    counts: Counter[str] = Counter()
    for fault in faults:
        counts[getattr(fault, part)] += fault.times
    return "; ".join(words if len(counts) == 1 else f"{times:,} × {words}" for words, times in counts.most_common())


INTRODUCTION = """# Faults

```sh
make faults
```

injects faults with real processes, real signals, a real file system that fills up and real servers that misbehave, and
writes this page: {total:,} faults ({machine}, seed {seed}). The quick half of them is part of `make test`.

*Peers* is what TRL's DPOTrainer (on transformers' Trainer) or Liger's fused losses did with the same input, where it
could be run, by `tests/faults/peers.py`: {versions}.
The C++ operators are checked by `make sanitize` as well."""

CONCLUSION = """
## Two thousand steps

![Memory, file handles and threads over two thousand steps](faults-soak.png)"""
