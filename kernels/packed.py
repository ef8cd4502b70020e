"""Products of few rows with the same weights, again and again: the linear layers of a model that samples."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from advgame.kernels.extension import BUILT


class PackedWeight(NamedTuple):
    """A linear layer's weight [N, K] as `packed_linear` takes it."""

    tensor: Tensor
    """Packed in panels (csrc/linear.cpp), or the weight as it is."""
    columns: int | None
    """N if it is packed."""


def packs(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies packed weights: with AVX2 or AVX-512, and for bfloat16 with AVX512_BF16."""
    return BUILT and torch.ops.advgame.has_panels(dtype)


def pack_weight(weight: Tensor) -> PackedWeight:
    """A copy of a weight [N, K], float32 or bfloat16, in the order in which `packed_linear` reads it fastest."""
    if weight.device.type == "cpu" and weight.size(1) % 2 == 0 and packs(weight.dtype):
        return PackedWeight(torch.ops.advgame.pack_weight(weight), len(weight))
    return PackedWeight(weight.clone(), None)


def packed_linear(x: Tensor, weight: PackedWeight, bias: Tensor | None = None, *, whole: bool = False) -> Tensor:
    """x @ weight.T + bias. Not differentiable.

    With a packed weight, sums are float32 and in the order of x's columns, so that a row's result depends neither on
    the rows beside it nor on their number.

    Args:
        x: [..., K], of the weight's dtype.
        weight: from pack_weight.
        bias: [N] float32.
        whole: return float32 for bfloat16 too, the sums as they are.

    Returns: [..., N] of x's dtype, or of float32.

    Raises:
        ValueError: a wrong shape, dtype or device; the message names the argument.
    """
    if weight.columns is not None:
        return torch.ops.advgame.packed_linear(x, weight.tensor, bias, weight.columns, whole)
    if whole and x.is_cuda and x.dtype != torch.float32:  # without a float32 copy of the weight
        product = torch.mm(x.flatten(0, -2), weight.tensor.T, out_dtype=torch.float32).unflatten(0, x.shape[:-1])
        return product if bias is None else product + bias
    dtype = torch.float32 if whole else x.dtype
    return functional.linear(x.to(dtype), weight.tensor.to(dtype), None if bias is None else bias.to(dtype))
