"""The compiled operators of csrc/: importing them registers torch.ops.advgame.*."""

import warnings

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


def resolve_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend that runs on `tensor`: `backend` itself, or the fastest one when it is None.

    Raises ValueError when the backend is unknown, or cannot run here.
    """
    if backend not in ("eager", "cpu", None):
        raise ValueError(f"backend: expected 'eager', 'cpu' or None, got {backend!r}")
    if backend == "eager":
        return "eager"
    problem = None
    if not BUILT:
        problem = "needs the C++ operators, which are not built"
    elif tensor.device.type != "cpu":
        problem = f"runs on CPU tensors, got tensors on {tensor.device}"
    elif tensor.dtype not in (torch.float32, torch.bfloat16):
        problem = f"takes float32 and bfloat16, got {tensor.dtype}"
    if problem is None:
        return "cpu"
    if backend == "cpu":
        raise ValueError(f"backend='cpu' {problem}; use backend='eager'")
    return "eager"
