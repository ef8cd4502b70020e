import ctypes
import sys

import pytest
import torch
from support.measure import resident

from advgame.trainer.base.memory import give_back_freed

MIB = 2**20


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_holes_between_what_is_still_used_go_back_to_the_system():
    buffers = [torch.ones(25_000) for _ in range(4000)]  # 100 kB each: small enough to lie on the heap
    used = buffers[::2]
    del buffers
    before = resident()
    give_back_freed()
    assert before - resident() > 150 * MIB
    assert all(buffer.eq(1).all() for buffer in used)
