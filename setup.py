"""Build: csrc/ becomes advgame.kernels._C when torch is importable; everything else is in pyproject.toml."""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.errors import CompileError

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
        # -g0: the flags that Python was built with ask for debugging information, which takes longer than the code.
        flags = ["-O3", "-g0", "-std=c++20", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wall"]
        if platform.machine() == "x86_64":
            flags += ["-mprefer-vector-width=512"]

    class Build(BuildExtension):
        """Several files at a time if ninja is installed, otherwise one after another."""

        def build_extension(self, ext: Extension) -> None:
            try:
                super().build_extension(ext)
            except RuntimeError as error:  # ninja's, which `optional` does not know
                raise CompileError(str(error)) from error

    # optional: without a working compiler the install goes on, and advgame.kernels says so when imported.
    headers = [str(path) for path in Path("csrc").glob("*.h")]
    operators = CppExtension("advgame.kernels._C", sources, depends=headers, extra_compile_args=flags, optional=True)
    return {"ext_modules": [operators], "cmdclass": {"build_ext": Build}}


setup(**extension())
