"""What a figure was measured on."""

import platform
from pathlib import Path

import torch

from advgame.kernels.packed import packs


def machine() -> str:
    """The card; or the processor, with the dtypes in which our products of few rows are its own."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    fast = [name for name in ("float32", "bfloat16") if packs(getattr(torch, name))]
    parts = (told.get(key) for key in ("model name", "cpu family", "model"))
    return f"{platform.machine()}, {' / '.join(map(str, parts))}; packed weights in {' and '.join(fast) or 'nothing'}"
