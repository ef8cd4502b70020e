"""Block sizes, warps and stages of every kernel. No kernel runs with others, and bench/aot.py compiles them all."""
# mypy: disable-error-code="import-untyped"

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from advgame.kernels.triton.forward import forward_kernel

Grid = tuple[int, ...] | Callable[[dict[str, int]], tuple[int, ...]]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on NumPy, for tests on a machine without a GPU."""

GROUP_TOKENS = 512
"""Tokens that share their set of columns. Smaller groups keep fewer columns each, but add to a row of dW more often."""

BLOCKS = {
    "forward_kernel": {
        "hidden": ("BLOCK_T", "BLOCK_H"),
        "weight": ("BLOCK_V", "BLOCK_H"),
        "probs": ("TILE", "BLOCK_T"),
    },
    "hidden_kernel": {"compact": ("BLOCK_V", "BLOCK_T")},
    "weight_kernel": {"compact": ("BLOCK_V", "BLOCK_T"), "hidden": ("BLOCK_T", "BLOCK_H")},
}
"""The matrices that kernels load in blocks, and the parameters that are a block's height and width."""

PRECISION = {2: "ieee", 4: "tf32x3"}
"""By the size of an element. A float32 product is made of three TensorFloat-32 products, which are exact to 2^-21."""

# By the shared memory of a multiprocessor, and by the size of an element: float32 operands take twice the memory. The
# blocks that are summed over, BLOCK_V in HIDDEN and BLOCK_T in WEIGHT, divide those of GATHER, which end in zeros.
FORWARD = {
    "large": {
        2: [
            {"BLOCK_V": 256, "BLOCK_T": 128, "BLOCK_H": 64, "GROUP": 8, "num_warps": 8, "num_stages": 4},
            {"BLOCK_V": 256, "BLOCK_T": 128, "BLOCK_H": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3},
            {"BLOCK_V": 128, "BLOCK_T": 128, "BLOCK_H": 64, "GROUP": 16, "num_warps": 8, "num_stages": 3},
        ],
        4: [{"BLOCK_V": 128, "BLOCK_T": 128, "BLOCK_H": 32, "GROUP": 16, "num_warps": 8, "num_stages": 3}],
    },
    "small": {
        2: [
            {"BLOCK_V": 256, "BLOCK_T": 128, "BLOCK_H": 32, "GROUP": 8, "num_warps": 8, "num_stages": 4},
            {"BLOCK_V": 128, "BLOCK_T": 128, "BLOCK_H": 32, "GROUP": 16, "num_warps": 8, "num_stages": 4},
        ],
        4: [{"BLOCK_V": 128, "BLOCK_T": 64, "BLOCK_H": 32, "GROUP": 16, "num_warps": 8, "num_stages": 3}],
    },
}
"""The autotuner chooses from these, once for each H, V and card."""
HIDDEN = {
    "large": {
        2: {"BLOCK_T": 128, "BLOCK_H": 256, "BLOCK_V": 64, "PART_H": 64, "num_warps": 8, "num_stages": 3},
        4: {"BLOCK_T": 128, "BLOCK_H": 128, "BLOCK_V": 32, "PART_H": 64, "num_warps": 8, "num_stages": 3},
    },
    "small": {
        2: {"BLOCK_T": 128, "BLOCK_H": 256, "BLOCK_V": 32, "PART_H": 64, "num_warps": 8, "num_stages": 4},
        4: {"BLOCK_T": 128, "BLOCK_H": 64, "BLOCK_V": 32, "PART_H": 64, "num_warps": 8, "num_stages": 3},
    },
}
WEIGHT = {
    "large": {
        2: {"BLOCK_V": 128, "BLOCK_H": 256, "BLOCK_T": 64, "PART_H": 64, "num_warps": 8, "num_stages": 3},
        4: {"BLOCK_V": 128, "BLOCK_H": 128, "BLOCK_T": 32, "PART_H": 64, "num_warps": 8, "num_stages": 3},
    },
    "small": {
        2: {"BLOCK_V": 128, "BLOCK_H": 256, "BLOCK_T": 32, "PART_H": 32, "num_warps": 8, "num_stages": 3},
        4: {"BLOCK_V": 128, "BLOCK_H": 64, "BLOCK_T": 32, "PART_H": 64, "num_warps": 8, "num_stages": 3},
    },
}
COMBINE = {"BLOCK_T": 32, "BLOCK_TILES": 64, "num_warps": 4}
ENERGY = {"BLOCK_V": 64, "BLOCK_T": 64, "num_warps": 4}
BELOW = {"BLOCK": 4096, "num_warps": 8}
COUNT = {"BLOCK": 2048, "num_warps": 4}
GATHER = {"BLOCK_V": 64, "BLOCK_T": 64, "num_warps": 4}
CACHE = {"num_warps": 1}
DECODE = {
    2: {"TOKENS": 64, "num_warps": 4, "num_stages": 3},
    4: {"TOKENS": 32, "num_warps": 4, "num_stages": 2},
}
SAMPLE = {"BLOCK": 2048, "num_warps": 8}
SCALE = {"BLOCK": 4096, "num_warps": 4}


@functools.cache
def generation() -> int:
    """The major compute capability of the card."""
    return 9 if INTERPRETED else torch.cuda.get_device_capability()[0]


def has_tma(generation: int) -> bool:
    """Whether cards load blocks by TMA descriptor, as Hopper and later ones do. Older ones take pointers."""
    return generation >= 9


def size_class(generation: int) -> str:
    """Of shared memory: Hopper and data-center Blackwell have 227 KiB, all others 99 KiB or more."""
    return "large" if generation in (9, 10) else "small"


def precision(hidden: Tensor) -> str:
    """The PRECISION of blocks.product."""
    return "interpreted" if INTERPRETED else PRECISION[hidden.element_size()]


def launch(kernel: Any, grid: Grid, config: dict[str, int], **arguments: Any) -> None:
    """Runs a kernel of this package with a configuration of this file."""
    _shape_blocks(kernel.__name__, arguments | config)
    kernel[grid](**arguments, **config)


def launch_forward(grid: Grid, element_size: int, **arguments: Any) -> None:
    """Runs forward_kernel with the fastest of its configurations."""
    if INTERPRETED:
        launch(forward_kernel, grid, FORWARD[size_class(generation())][element_size][-1], **arguments)
    else:
        _autotuned(size_class(generation()), element_size)[grid](**arguments)


@functools.cache
def _autotuned(size_class: str, element_size: int) -> Any:
    shape_blocks = functools.partial(_shape_blocks, forward_kernel.__name__)

    def config(options: dict[str, int]) -> triton.Config:
        blocks = {key: value for key, value in options.items() if key.isupper()}
        warps, stages = options["num_warps"], options["num_stages"]
        return triton.Config(blocks, num_warps=warps, num_stages=stages, pre_hook=shape_blocks)

    configs = [config(options) for options in FORWARD[size_class][element_size]]
    return triton.autotune(configs, key=["width", "vocab"])(forward_kernel)


def _shape_blocks(kernel: str, arguments: dict[str, Any]) -> None:
    for matrix, (height, width) in BLOCKS[kernel].items():
        if isinstance(arguments[matrix], TensorDescriptor):
            arguments[matrix].block_shape = [arguments[height], arguments[width]]
