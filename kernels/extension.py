"""The backends that can run here. Importing the compiled operators of csrc/ registers torch.ops.advgame.*."""

import os
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor


def _load() -> bool:
    try:
        import advgame.kernels._C  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"advgame's C++ operators are not built ({error}); the plain PyTorch path is used. "
            "To build them: pip install torch && pip install --no-build-isolation -e .",
            stacklevel=2,
        )
        return False
    return True


BUILT = _load()
"""True when torch.ops.advgame.* can be called."""
HAS_TRITON = find_spec("triton") is not None


def resolve_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend that runs on `tensor`: `backend` itself, or the fastest one when it is None.

    Raises ValueError when the backend is unknown, or cannot run here.
    """
    problems = {"eager": None, "cpu": _cpu_problem(tensor), "triton": _triton_problem(tensor)}
    if backend is None:
        fastest = "triton" if tensor.is_cuda else "cpu"
        return "eager" if problems[fastest] else fastest
    if backend not in problems:
        raise ValueError(f"backend: expected 'eager', 'cpu', 'triton' or None, got {backend!r}")
    if problems[backend]:
        raise ValueError(f"backend={backend!r} {problems[backend]}; use backend='eager'")
    return backend


def _cpu_problem(tensor: Tensor) -> str | None:
    if not BUILT:
        return "needs the C++ operators, which are not built"
    if tensor.device.type != "cpu":
        return f"runs on CPU tensors, got tensors on {tensor.device}"
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, got {tensor.dtype}"
    return None


def _triton_problem(tensor: Tensor) -> str | None:
    if not HAS_TRITON:
        return "needs triton, which is not installed"
    if tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"runs on CUDA tensors, got tensors on {tensor.device}"
    if tensor.dtype not in (torch.float32, torch.bfloat16):  # small gradients by float16's logits would be lost
        return f"takes float32 and bfloat16, got {tensor.dtype}"
    return None
