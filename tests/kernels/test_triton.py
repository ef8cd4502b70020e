"""What only the Triton backend has: rounds, and kernels that compile for cards that are not here."""

import os
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest
import torch
from problems import error, gradients, in_float64, problem

from advgame.kernels import linear_preference_loss
from advgame.kernels.extension import resolve_backend

triton = pytest.importorskip("triton")


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_any_number_of_rounds_gives_the_same_gradients(filter_eps):
    """A first round that holds too few of the active columns leaves the others to the next."""
    from advgame.kernels import triton as backend

    p = problem([40, 50], vocab=700)
    options = {"backend": "triton", "filter_eps": filter_eps}
    with unittest.mock.patch.object(backend, "ROUNDS", 1):
        one = gradients(linear_preference_loss, p, **options)[1]
    with unittest.mock.patch.object(backend, "ROUNDS", 11):
        many = gradients(linear_preference_loss, p, **options)[1]
    assert all(error(a, b) < 1e-6 for a, b in zip(many, one, strict=True))


def test_groups_and_chunks_of_tokens():
    """More than one group in a chunk, the last one short, and more than one chunk."""
    p = problem([300, 260, 200, 130], vocab=300)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    with unittest.mock.patch("advgame.kernels.triton.CHUNK_TOKENS", 600):
        _, actual = gradients(linear_preference_loss, p, backend="triton", filter_eps=0.0)
    assert all(error(a, e) < 3e-5 for a, e in zip(actual, expected, strict=True))


def test_picks_triton_for_cuda_tensors_only(monkeypatch):
    assert resolve_backend(None, torch.zeros(1)) in ("cpu", "eager")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="backend='triton' runs on CUDA tensors, got tensors on cpu"):
        resolve_backend("triton", torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100])
def test_every_kernel_compiles_without_spills(target, tmp_path):
    """At every configuration that may run: registers suffice, shared memory fits, tensor cores are used."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "bench/aot.py",
        "--targets",
        str(target),
        "--json",
        str(tmp_path / "aot.json"),
        "--strict",
    ]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
