"""Arguments of the kernels that are wrong or not finite: a ValueError, or one answer from all backends; no crash."""

import math
from multiprocessing.connection import Pipe

import pytest
import torch
from faults.arguments import BACKENDS, try_arguments
from faults.forked import SERVER

from advgame.kernels import sample_top_p


def test_any_arguments(tmp_path, fault, times, seed):
    told, tell = Pipe(duplex=False)
    log = tmp_path / "tried.txt"
    process = SERVER.Process(target=try_arguments, args=(tell, log, seed, times(200, 3000)))
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text().splitlines()[-2:]
    refused, answered = told.recv()
    fault("numbers", "arguments of the kernels, generated", "refused by a ValueError", times=refused)
    fault("numbers", "arguments of the kernels, generated", "the same from all backends, finite or not", times=answered)


@pytest.mark.parametrize("uniform", [-1.0, -1e-300, 1.0, 2.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_uniforms_that_are_none(uniform, backend, top_p, fault):
    with pytest.raises(ValueError, match="uniforms"):
        sample_top_p(
            torch.randn(3, 50), torch.tensor([0.5, uniform, 0.5], dtype=torch.float64), top_p=top_p, backend=backend
        )
    fault("numbers", "uniform numbers that are none", "refused by a ValueError")


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_are_none(value, temperature, backend, fault):
    logits = torch.randn(3, 50)
    logits[1, 7] = value
    with pytest.raises(ValueError, match="logits"):
        sample_top_p(logits, torch.full((3,), 0.5).double(), temperature=temperature, backend=backend)
    fault("numbers", "logits that are none", "refused by a ValueError")
