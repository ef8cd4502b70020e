"""The dtype of matrix products. CPUs are fast at bfloat16 by AMX, some of them by AVX512_BF16, and many not at all."""

import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from advgame.kernels.packed import pack_weight, packed_linear
from advgame.trainer.base.files import adding_folder, write_text
from advgame.trainer.models.sources import cache_folder
from advgame.trainer.settings.schema import Precision

PAYS = 1.3
"""Times as fast as float32."""
SMALLEST_IN_BFLOAT16 = 256
"""Hidden size from which bfloat16 pays on a CPU."""
ROWS, WIDTH, COLUMNS, REPEATS = 32, 576, 1536, 15


def dtype_of_products(precision: Precision, hidden_size: int, cuda: bool) -> torch.dtype:
    """In training and in sampling, of a model of this size on CUDA or on this machine's CPU."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    half = cuda or (hidden_size >= SMALLEST_IN_BFLOAT16 and bfloat16_pays())
    return torch.bfloat16 if half else torch.float32


@functools.cache
def bfloat16_pays() -> bool:
    """Measured once on a machine and kept in its cache folder: all processes and all runs compute in the same dtype."""
    machine = f"{processor()} / {torch.get_num_threads()} threads / torch {torch.__version__}"
    folder = cache_folder() / f"products-{hashlib.sha256(machine.encode()).hexdigest()[:12]}"
    if not folder.exists():
        with adding_folder(folder) as half:
            measured = {name: _seconds(getattr(torch, name)) for name in ("float32", "bfloat16")}
            write_text(half / "seconds.json", json.dumps({"processor": machine} | measured))
    seconds = json.loads((folder / "seconds.json").read_text())
    return bool(seconds["float32"] > PAYS * seconds["bfloat16"])


def _seconds(dtype: torch.dtype) -> float:
    """Of the fastest of several products with a weight that stays in cache."""
    x, weight = (torch.full((n, WIDTH), 0.5, dtype=dtype) for n in (ROWS, COLUMNS))
    packed = pack_weight(weight)
    return min(_timed(lambda: packed_linear(x, packed)) for _ in range(REPEATS))


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def processor() -> str:
    """What /proc/cpuinfo says of it: name, family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    return " / ".join(told.get(key, "?") for key in ("model name", "cpu family", "model"))
