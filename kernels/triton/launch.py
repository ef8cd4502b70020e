"""Block sizes, warps and stages of every kernel: all that bench/aot.py compiles, and all that ever runs."""

import functools
import os

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from advgame.kernels.triton.forward import forward_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on numpy, for tests on a machine without a GPU."""

GROUP_TOKENS = 512
"""Tokens that share their set of active columns: fewer keep fewer columns, but add each to dW more often."""

BLOCKS = {
    "forward_kernel": {
        "hidden": ("BLOCK_T", "BLOCK_H"),
        "weight": ("BLOCK_V", "BLOCK_H"),
        "probs": ("TILE", "BLOCK_T"),
    },
    "hidden_kernel": {"compact": ("BLOCK_V", "BLOCK_T")},
    "weight_kernel": {"compact": ("BLOCK_V", "BLOCK_T"), "hidden": ("BLOCK_T", "BLOCK_H")},
}
"""Matrices of which kernels load blocks, and a block's height and width."""

PRECISION = {2: "ieee", 4: "tf32x3"}
"""By the size of an element. Products of float32 numbers are made of three of TensorFloat32's: exact to 2^-21."""

# By the memory of a multiprocessor, and the size of an element: float32 operands take twice the shared memory. What is
# summed over, BLOCK_V in HIDDEN and BLOCK_T in WEIGHT, divides the blocks of GATHER, which end in zeros.
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
"""What the autotuner chooses from, once per H, V and card."""
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
SCALE = {"BLOCK": 4096, "num_warps": 4}


@functools.cache
def generation() -> int:
    """Of the card: its compute capability, without the minor number."""
    return 9 if INTERPRETED else torch.cuda.get_device_capability()[0]


def has_tma(generation: int) -> bool:
    """Hopper and later load blocks by descriptor. Before, kernels are given pointers."""
    return generation >= 9


def size_class(generation: int) -> str:
    """Hopper and data-center Blackwell have 227 KiB of shared memory, all others 99 KiB or more."""
    return "large" if generation in (9, 10) else "small"


def launch(kernel, grid, config: dict, **arguments) -> None:
    _shape_blocks(kernel.__name__, arguments | config)
    kernel[grid](**arguments, **config)


def launch_forward(grid, element_size: int, **arguments) -> None:
    if INTERPRETED:
        launch(forward_kernel, grid, FORWARD[size_class(generation())][element_size][-1], **arguments)
    else:
        _autotuned(size_class(generation()), element_size)[grid](**arguments)


@functools.cache
def _autotuned(size_class: str, element_size: int):
    shape_blocks = functools.partial(_shape_blocks, forward_kernel.__name__)

    def config(options: dict) -> triton.Config:
        blocks = {key: value for key, value in options.items() if key.isupper()}
        warps, stages = options["num_warps"], options["num_stages"]
        return triton.Config(blocks, num_warps=warps, num_stages=stages, pre_hook=shape_blocks)

    configs = [config(options) for options in FORWARD[size_class][element_size]]
    return triton.autotune(configs, key=["width", "vocab"])(forward_kernel)


def _shape_blocks(kernel: str, arguments: dict) -> None:
    for matrix, (height, width) in BLOCKS[kernel].items():
        if isinstance(arguments[matrix], TensorDescriptor):
            arguments[matrix].block_shape = [arguments[height], arguments[width]]
