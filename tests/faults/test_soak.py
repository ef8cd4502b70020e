"""Two thousand steps, evaluated and saved all along: memory, file handles and threads stay as they are."""

from pathlib import Path

import psutil
import pytest
from faults.forked import start
from helpers import records

SETTINGS = (
    "--config", "tiny", "batch_size=2", "steps_per_batch=1", "attacker.samples=2", "defender.samples=2",
    "attacker.sampling.max_new_tokens=4", "defender.sampling.max_new_tokens=4", "checkpoint.every=50", "eval.every=100",
    "eval.seeds=[tiny.jsonl]", "eval.limit=2",
)  # fmt: skip


def allocated(process: psutil.Process) -> float:
    """MiB, also where they are swapped out; pages of files come and go as the system likes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:"))) / 1024


UNITS = {"memory, MiB": allocated, "file handles": lambda p: p.num_fds(), "threads": lambda p: p.num_threads()}


@pytest.mark.timeout(1200)
def test_a_long_run_grows_nowhere(tmp_path, fault, times, page):
    steps, run = times(100, 2000), tmp_path / "run"
    command = start("train", *SETTINGS, f"steps={steps}", f"output_dir={run}", log=tmp_path / "log", watched=True)
    process, measured, optimised = psutil.Process(command.process.pid), [], 0
    for what, _ in command.doing():
        optimised += what == "forward"  # of each player
        if what == "forward" and optimised % 20 == 1 and optimised < 2 * steps:
            measured.append((optimised // 2, *(read(process) for read in UNITS.values())))
    assert command.code == 0, command.text
    assert len(records(run)) == steps
    grown = {name: growth([line[1 + i] for line in measured]) for i, name in enumerate(UNITS)}
    assert grown["file handles"] == grown["threads"] == 0, grown
    assert grown["memory, MiB"] < 20, grown
    if page:
        draw(measured, page.with_name("faults-soak.png"))
    words = ", ".join(f"{name} {by:+.1f}" for name, by in grown.items())
    fault(
        "time",
        "steps of one process, saved every 50, evaluated every 100",
        f"from the second quarter to the last: {words}",
        times=steps,
    )


def growth(values: list[float]) -> float:
    """From the second quarter to the last one, minima: whatever is freed again does not count."""
    quarter = len(values) // 4
    return min(values[-quarter:]) - min(values[quarter : 2 * quarter])


def draw(measured: list[tuple], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    steps, *lines = zip(*measured, strict=True)
    for axes, name, values in zip(figure.subplots(3, 1, sharex=True), UNITS, lines, strict=True):
        axes.plot(steps, values)
        axes.set(ylabel=name, ylim=(0, max(values) * 1.2))
    axes.set(xlabel="step")
    figure.savefig(file, dpi=100)
