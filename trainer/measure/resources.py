"""What a run takes: time, memory, tokens, energy and carbon, summed over its steps however often it was stopped.

What is done between two steps (loading, evaluating, saving) counts towards the next; only the last saving is left out.

Energy is read from the machine's own counters after every step (some wrap around within the hour), and reported only
if they can be read. They count all that the processors do, for this run or not.
"""

import resource
from pathlib import Path
from typing import Any

import torch

from advgame.trainer.base import collectives

POWERCAP = Path("/sys/class/powercap")
"""The folder of Linux's RAPL counters."""
NVML_RANGE = 2.0**64 / 1e3
"""Joules at which NVML's counter of millijoules wraps around."""
JOULES_PER_KWH = 3.6e6
MEMORY = ("predicted_memory_gib", "measured_memory_gib")
"""What the record of a run's first step says of a process's peak, above what it held before the models were loaded."""


def peak_memory() -> int:
    """Bytes of this process at its peak so far: on a GPU the allocator's, else those that were resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class EnergyMeter:
    """Joules by source: `cpu` (packages and memory of the machine) and, with GPUs, `gpu` (those of the run)."""

    def __init__(self, powercap: Path | None = None):
        """powercap: the folder of the RAPL counters, if it is not this machine's own."""
        self._powercap, self._nvml = powercap or POWERCAP, _nvml()
        self._readings = self._read()

    def take(self) -> dict[str, float | None]:
        """Since the last call, of all processes; None if a process cannot read its counter."""
        before, self._readings = self._readings, self._read()
        spent = {source: _difference(before[source], now) for source, now in self._readings.items()}
        everyone = collectives.gather([spent])
        return {source: _sum([process[source] for process in everyone]) for source in spent}

    def _read(self) -> dict[str, list[tuple[float, float]] | None]:
        """(joules, joules at which it wraps around) of each counter."""
        one_a_machine = collectives.local_rank() == 0
        readings = {"cpu": _read_rapl(self._powercap) if one_a_machine else []}
        return readings | ({"gpu": _read_nvml(self._nvml)} if torch.cuda.is_available() else {})


def summarise(records: list[dict], grid_intensity: float | None) -> dict:
    """Sums up the records of a run's steps; grid_intensity is in g CO2e per kWh.

    Energy and carbon are only of the sources that could be read at every step.
    """
    timings = [record["timing"] for record in records]
    stages = dict.fromkeys(stage for timing in timings for stage in timing["stages"])
    sources = dict.fromkeys(source for timing in timings for source in timing["joules"])
    joules = {source: _sum([timing["joules"].get(source) for timing in timings]) for source in sources}
    kwh = {source: None if spent is None else spent / JOULES_PER_KWH for source, spent in joules.items()}
    measured = [spent for spent in kwh.values() if spent is not None]
    compared = [{name: timing[name] for name in MEMORY} for timing in timings if MEMORY[0] in timing]
    return {
        "steps": len(records),
        "seconds": sum(timing["elapsed"] for timing in timings),
        "stages": {stage: sum(timing["stages"].get(stage, 0.0) for timing in timings) for stage in stages},
        "peak_memory_gib": max(timing["peak_memory_gib"] for timing in timings),
        "first_step": compared[0] if compared else None,
        "sampled_tokens": sum(timing["sampled_tokens"] for timing in timings),
        "trained_tokens": sum(record[name].get("tokens", 0) for record in records for name in ("attacker", "defender")),
        "kwh": kwh,
        "grid_intensity": grid_intensity,
        "carbon_g": sum(measured) * grid_intensity if measured and grid_intensity is not None else None,
    }


def _read_rapl(powercap: Path) -> list[tuple[float, float]] | None:
    """Packages, and memory if it has a counter of its own; None if there is no counter, or no permission to read it."""
    readings = []
    try:
        for domain in sorted(powercap.glob("intel-rapl:*")):
            name = (domain / "name").read_text().strip()
            if name.startswith("package") or name == "dram":  # cores are part of a package, and it is part of psys
                values = [float((domain / file).read_text()) for file in ("energy_uj", "max_energy_range_uj")]
                readings.append((values[0] / 1e6, values[1] / 1e6))
    except OSError:
        return None
    return readings or None


def _nvml() -> Any:
    """NVML's handle of this process's GPU, or None."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(collectives.device()).uuid}")
    except Exception:  # not installed, or any of NVML's own errors
        return None


def _read_nvml(handle: Any) -> list[tuple[float, float]] | None:
    if handle is None:
        return None
    import pynvml

    try:
        return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, NVML_RANGE)]
    except pynvml.NVMLError:
        return None


def _difference(before: list | None, now: list | None) -> float | None:
    if before is None or now is None or len(before) != len(now):
        return None
    return sum((end - start) % limit for (start, _), (end, limit) in zip(before, now, strict=True))


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
