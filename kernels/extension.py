"""The compiled operators of csrc/: importing them registers torch.ops.advgame.*."""

import warnings


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


def resolve_backend(backend: str | None, device_type: str) -> str:
    """The backend that runs: `backend` itself, or the fastest one for the device when it is None.

    Raises ValueError when the backend is unknown, or cannot run here.
    """
    if backend is None:
        return "cpu" if BUILT and device_type == "cpu" else "eager"
    if backend not in ("eager", "cpu"):
        raise ValueError(f"backend: expected 'eager', 'cpu' or None, got {backend!r}")
    if backend == "cpu" and not BUILT:
        raise ValueError("backend='cpu' needs the C++ operators, which are not built; use backend='eager'")
    if backend == "cpu" and device_type != "cpu":
        raise ValueError(f"backend='cpu' runs on CPU tensors, got tensors on {device_type!r}")
    return backend
