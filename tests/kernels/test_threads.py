"""Calls from several Python threads at once share the pool of buffers and nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import gradients, problem

from advgame.kernels import linear_preference_loss, sample_top_p
from advgame.kernels.extension import BUILT
from advgame.kernels.fused import release_buffers

pytestmark = pytest.mark.skipif(not BUILT, reason="C++ operators not built")


def work(_: int) -> list[torch.Tensor]:
    torch.set_num_threads(1)
    results = []
    for seed in range(3):
        results += gradients(linear_preference_loss, problem([16, 16, 20, 12], seed=seed), backend="cpu")[1]
        logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(seed))
        results += sample_top_p(logits, torch.full((4,), 0.3, dtype=torch.float64), top_p=0.9, backend="cpu")
        results.append(torch.ops.advgame.pooled([1 << 21], True).sum())
        release_buffers()
    return results


def test_threads_at_once_give_what_one_gives():
    expected = work(0)
    with ThreadPoolExecutor(3) as pool:
        for actual in pool.map(work, range(3)):
            assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
