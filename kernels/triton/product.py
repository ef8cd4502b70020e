"""The one matrix product of all kernels."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a b, in float32. PRECISION: tl.dot's input_precision, or "interpreted"."""
    if PRECISION == "interpreted":  # which would multiply the bit patterns of bfloat16
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total
