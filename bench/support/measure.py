"""Time and memory, measured the same way for everyone."""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from advgame.trainer.base.memory import give_back_freed


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(contenders: dict[str, Callable[[], object]], repeat: int, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a drifting machine is unfair to nobody.

    warm_up: each runs once before it is timed; False for those that have just run.
    """
    for run in contenders.values() if warm_up else ():
        run()
    seconds = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, run in contenders.items():
            gc.collect()
            synchronize()
            began = time.perf_counter()
            run()
            synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def copy_bandwidth(device: str, repeat: int) -> float:
    """Bytes a second read and written by a copy of half a GiB: what passes over memory cannot beat."""
    source = torch.empty(2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / alternate({"copy": lambda: target.copy_(source)}, repeat)["copy"]


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes at the peak of `run` above what was held before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    give_back_freed()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    before = resident()
    run()
    return resident("VmHWM") - before


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process, as Linux counts them: held now, or VmHWM, at the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])
