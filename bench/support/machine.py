"""What a figure was measured on."""

import platform

import torch

from advgame.kernels.packed import packs
from advgame.trainer.models.precision import processor


def machine() -> str:
    """The card; or the processor, with the dtypes in which our products of few rows are its own."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    fast = [name for name in ("float32", "bfloat16") if packs(getattr(torch, name))]
    return f"{platform.machine()}, {processor()}; packed weights in {' and '.join(fast) or 'nothing'}"
