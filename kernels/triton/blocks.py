"""Blocks of matrices: how they are loaded, multiplied, and cut into parts where registers are short."""
# mypy: disable-error-code="import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def blocks_of(matrix: Tensor) -> TensorDescriptor:
    """A descriptor by which TMA loads blocks of a matrix. The kernel's configuration sets their shape."""
    size = matrix.element_size()
    if matrix.data_ptr() % 16 or matrix.stride(0) * size % 16:  # a copy that TMA can address; no model's width needs it
        matrix = torch.nn.functional.pad(matrix, (0, -matrix.size(1) % (16 // size)))
    return TensorDescriptor.from_tensor(matrix, [1, 1])


@triton.jit
def described(matrix, rows, width, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """The matrix's descriptor: beyond its edges zeros are loaded and nothing is stored. Cards without TMA are passed a
    pointer, because a descriptor made here compiles to asynchronous copies, and one made by the host does not."""
    if matrix.dtype.is_ptr():
        matrix = tl.make_tensor_descriptor(matrix, [rows, width], [width, 1], [HEIGHT, WIDTH])
    return matrix


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a b, in float32. PRECISION: tl.dot's input_precision, or "interpreted"."""
    if PRECISION == "interpreted":  # which would multiply the bit patterns of bfloat16
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def in_parts(block, WIDTH: tl.constexpr):
    """The block's columns, WIDTH at a time: where a block fills most registers, the others suffice for a part."""
    if block.shape[1] > WIDTH:
        left, right = block.reshape(block.shape[0], 2, block.shape[1] // 2).permute(0, 2, 1).split()
        parts = in_parts(left, WIDTH) + in_parts(right, WIDTH)
    else:
        parts = (block,)
    return parts
