"""The layers between a transformer's products, each in one pass over memory on CPUs: norms and gated activations."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from advgame.kernels.arguments import require
from advgame.kernels.extension import BUILT


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """weight · x / sqrt(mean(x²) + eps) over the last dimension, computed in float32 or wider (arXiv 1910.07467).

    Args:
        x: [..., H], floating point.
        weight: [H].
        eps: added to the mean of squares.
        dtype: of the result; None: x's. Where a product in bfloat16 follows, bfloat16 saves a pass.

    Raises:
        ValueError: the weight is not one number for each of x's last dimension.
    """
    require(weight.shape == x.shape[-1:], f"weight: expected {list(x.shape[-1:])} as x, got {list(weight.shape)}")
    dtype = x.dtype if dtype is None else dtype
    if _compiled(x) and dtype in (x.dtype, torch.bfloat16):
        return _RMSNorm.apply(x, weight, eps, dtype)
    wide = x.double() if x.dtype == torch.float64 else x.float()
    return (weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))).to(dtype)


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, of the same shape and dtype (SwiGLU, arXiv 2002.05202).

    Raises:
        ValueError: shapes or dtypes differ.
    """
    same = gate.shape == up.shape and gate.dtype == up.dtype
    require(same, f"up: expected {list(gate.shape)} {gate.dtype} as gate, got {list(up.shape)} {up.dtype}")
    return _SiluGate.apply(gate, up) if _compiled(gate) else silu(gate) * up


def _compiled(x: Tensor) -> bool:
    return BUILT and x.is_cpu and x.dtype in (torch.float32, torch.bfloat16)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.size(-1)).contiguous()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        rows, scale = _rows(x), weight.float().contiguous()
        y, inverse = torch.ops.advgame.rms_norm(rows, scale, eps, dtype)
        ctx.save_for_backward(rows, weight, inverse)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, inverse = ctx.saved_tensors
        scale = weight.float().contiguous()
        d_x, d_weight = torch.ops.advgame.rms_norm_backward(_rows(grad), rows, scale, inverse)
        return d_x.view(grad.shape), d_weight.to(weight.dtype), None, None


class _SiluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        rows = _rows(gate), _rows(up)
        ctx.save_for_backward(*rows)
        return torch.ops.advgame.silu_gate(*rows).view(gate.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        d_gate, d_up = torch.ops.advgame.silu_gate_backward(_rows(grad), *ctx.saved_tensors)
        return d_gate.view(grad.shape), d_up.view(grad.shape)
