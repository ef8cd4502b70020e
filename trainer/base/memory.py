"""What a process holds of the machine's memory."""

import ctypes
import sys


def give_back_freed() -> None:
    """Gives memory back to the system that was freed and that glibc has kept.

    Buffers differ in size from step to step, as batches differ in tokens. So few fit where others were freed, and what
    a process holds would grow for as long as it runs.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
