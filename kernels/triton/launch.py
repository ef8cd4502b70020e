"""Block sizes, warps and stages of every kernel: all that bench/aot.py compiles, and all that ever runs."""

import os

import triton

from advgame.kernels.triton.forward import forward_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on numpy, for tests on a machine without a GPU."""

GROUP_TOKENS = 512
"""Tokens that share their set of active columns: fewer keep fewer columns, but add each to dW more often."""

PRECISION = {2: "ieee", 4: "tf32x3"}
"""By the size of an element. Products of float32 numbers are made of three of TensorFloat32's: exact to 2^-21."""

# By the size of an element: float32 operands take twice the shared memory.
FORWARD = {
    2: [
        {"BLOCK_T": 128, "BLOCK_H": 64, "GROUP": 8, "num_warps": 8, "num_stages": 4},
        {"BLOCK_T": 128, "BLOCK_H": 32, "GROUP": 8, "num_warps": 8, "num_stages": 4},
        {"BLOCK_T": 64, "BLOCK_H": 64, "GROUP": 8, "num_warps": 8, "num_stages": 4},
    ],
    4: [{"BLOCK_T": 64, "BLOCK_H": 32, "GROUP": 8, "num_warps": 8, "num_stages": 3}],
}
"""What the autotuner chooses from, once per H, V and card."""
FORWARD_WITH_MORE = {size: configs[-1:] for size, configs in FORWARD.items()}
"""With entropies or a soft-cap, which need more registers."""
HIDDEN = {
    2: {"BLOCK_T": 128, "BLOCK_H": 128, "BLOCK_V": 64, "num_warps": 8, "num_stages": 3},
    4: {"BLOCK_T": 64, "BLOCK_H": 64, "BLOCK_V": 32, "num_warps": 4, "num_stages": 2},
}
WEIGHT = {
    2: {"BLOCK_V": 64, "BLOCK_H": 128, "BLOCK_T": 64, "num_warps": 8, "num_stages": 3},
    4: {"BLOCK_V": 64, "BLOCK_H": 64, "BLOCK_T": 32, "num_warps": 4, "num_stages": 2},
}
COMBINE = {"BLOCK_T": 32, "BLOCK_TILES": 64, "num_warps": 4}
ENERGY = {"BLOCK_V": 64, "BLOCK_T": 64, "num_warps": 4}
BELOW = {"BLOCK": 4096, "num_warps": 8}
COUNT = {"BLOCK": 1024, "num_warps": 4}
GATHER = {"BLOCK_V": 64, "BLOCK_T": 64, "num_warps": 4}
SCALE = {"BLOCK": 4096, "num_warps": 4}


def _autotuned(configs: list[dict]):
    def config(options: dict) -> triton.Config:
        blocks = {key: value for key, value in options.items() if key.isupper()}
        return triton.Config(blocks, num_warps=options["num_warps"], num_stages=options["num_stages"])

    return triton.autotune([config(options) for options in configs], key=["width", "vocab"])(forward_kernel)


if not INTERPRETED:
    _forward = {size: _autotuned(configs) for size, configs in FORWARD.items()}
    _forward_with_more = {size: _autotuned(configs) for size, configs in FORWARD_WITH_MORE.items()}


def launch_forward(grid, element_size: int, with_more: bool, *arguments, **constants) -> None:
    if INTERPRETED:
        forward_kernel[grid](*arguments, **constants, **FORWARD[element_size][-1])
    else:
        (_forward_with_more if with_more else _forward)[element_size][grid](*arguments, **constants)
