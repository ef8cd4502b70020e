"""The backends by name: what each needs in order to run, and its module."""

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor

from advgame.kernels.backend import Backend
from advgame.kernels.extension import BUILT


@dataclass(frozen=True)
class Requirements:
    """What a backend needs. It is known before the backend's module is imported, which may fail without it."""

    device: str
    """The type of device that it runs on, and for whose tensors it is the default."""
    missing: str | None
    """What it needs and this installation lacks; None if it can run."""
    interpreter: str | None = None
    """An environment variable that makes it run on every device when it is "1"."""


_NO_OPERATORS = None if BUILT else "the C++ operators, which are not built"
_NO_TRITON = None if find_spec("triton") else "triton, which is not installed"

BACKENDS = {
    "cpu": Requirements("cpu", _NO_OPERATORS),
    "triton": Requirements("cuda", _NO_TRITON, interpreter="TRITON_INTERPRET"),
}
"""The backends besides "eager". Each name is a module of this package that satisfies backend.Backend."""


def resolve_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend that runs on `tensor`: `backend` if it is given, else the fastest one that can.

    Raises:
        ValueError: the backend is unknown or cannot run here.
    """
    if backend is None:
        for name, requirements in BACKENDS.items():
            if requirements.device == tensor.device.type and not _problem(requirements, tensor):
                return name
        return "eager"
    if backend == "eager":
        return backend
    if backend not in BACKENDS:
        known = ", ".join(repr(name) for name in ("eager", *BACKENDS))
        raise ValueError(f"backend: expected {known} or None, got {backend!r}")
    if problem := _problem(BACKENDS[backend], tensor):
        raise ValueError(f"backend={backend!r} {problem}; use backend='eager'")
    return backend


def primitives(backend: str) -> Backend:
    """The module of a backend in BACKENDS."""
    return cast(Backend, import_module(f"advgame.kernels.{backend}"))


def _problem(requirements: Requirements, tensor: Tensor) -> str | None:
    """Why a backend cannot run on `tensor`."""
    if requirements.missing:
        return f"needs {requirements.missing}"
    interpreted = requirements.interpreter is not None and os.environ.get(requirements.interpreter) == "1"
    if tensor.device.type != requirements.device and not interpreted:
        return f"runs on {requirements.device.upper()} tensors, got tensors on {tensor.device}"
    if tensor.dtype not in (torch.float32, torch.bfloat16):  # small gradients would underflow in float16
        return f"takes float32 and bfloat16, got {tensor.dtype}"
    return None
