"""Build: csrc/ becomes advgame.kernels._C when torch is importable; everything else is in pyproject.toml."""

import os
import platform
from pathlib import Path

from setuptools import setup

NO_TORCH = """
advgame: torch is not importable in this build, so the C++ operators (csrc/) are NOT built and the kernels
advgame: run on their plain PyTorch path. To build them:
advgame:     pip install torch && pip install --no-build-isolation -e .
"""


def extension() -> dict:
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        print(NO_TORCH)
        return {}
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    flags = ["/O2", "/std:c++20", "/openmp:experimental"]
    if os.name == "posix":
        # Loops vectorise only where they need not set errno or raise floating point exceptions.
        flags = ["-O3", "-std=c++20", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wall"]
        if platform.machine() == "x86_64":
            flags += ["-mprefer-vector-width=512"]
    # optional: without a working compiler the install goes on, and advgame.kernels says so when imported.
    headers = [str(path) for path in Path("csrc").glob("*.h")]
    operators = CppExtension("advgame.kernels._C", sources, depends=headers, extra_compile_args=flags, optional=True)
    return {
        "ext_modules": [operators],
        # plain distutils rather than ninja: only its compile errors are caught by `optional`.
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=False)},
    }


setup(**extension())
