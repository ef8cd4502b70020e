"""The compiled operators of csrc/. Importing them registers torch.ops.advgame.*."""

import warnings
from importlib import import_module


def _load() -> bool:
    try:
        import_module("advgame.kernels._C")
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
