"""What only the Triton backend has: rounds, and kernels that compile for cards that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import device_of, error, gradients, in_float64, problem

from advgame.kernels import linear_preference_loss
from advgame.kernels.backend import Gradients, Head
from advgame.kernels.options import AUTO_FILTER_EPS
from advgame.kernels.registry import resolve_backend

pytest.importorskip("triton")
backend = pytest.importorskip("advgame.kernels.triton")


@pytest.fixture(autouse=True)
def device():
    with device_of("triton") as device:
        yield device


def sums(p: dict) -> Gradients:
    weight, rest = backend.weight_sums(p["weight"])
    return Gradients(torch.zeros(p["hidden"].shape), weight, rest, None)


def accumulate(p: dict, gradients: Gradients, filter_eps: float, descriptors: bool | None = None, **options) -> None:
    """Adds to `gradients` those of p's tokens, as one chunk, with opposite signs for the two sequences of a pair."""
    head, targets = Head(p["weight"], None, 0.0, 1.0), p["targets"]
    probs = backend.probs_buffer(len(targets), p["weight"])
    exact = filter_eps == 0
    stats = backend.head_forward(p["hidden"], head, targets, False, exact, probs, descriptors=descriptors)
    signs = 1.0 - 2.0 * (torch.arange(len(p["reference_logps"])) % 2)
    coef, slope = signs.repeat_interleave(p["cu_seqlens"].diff()), torch.ones(len(targets))
    backend.head_backward(
        p["hidden"], head, targets, coef, slope, stats, probs, filter_eps, gradients, descriptors=descriptors, **options
    )


@pytest.mark.parametrize("filter_eps", [0.0, AUTO_FILTER_EPS])
def test_any_number_of_rounds_gives_the_same_gradients(filter_eps):
    """A first round that holds too few of the active columns leaves the others to the next."""
    p = problem([40, 50], vocab=700)
    one, many = sums(p), sums(p)
    accumulate(p, one, filter_eps, rounds=1)
    accumulate(p, many, filter_eps, rounds=11)
    assert error(many.hidden, one.hidden) < 1e-6 and error(many.weight, one.weight) < 1e-6


def test_groups_and_chunks_of_tokens():
    """More than one group in a chunk, the last one short, and more than one chunk."""
    p = problem([300, 260, 200, 130], vocab=300)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend="triton", filter_eps=0.0, chunk_tokens=600)
    assert all(error(a, e) < 3e-5 for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(torch.cuda.is_available(), reason="the card decides")
def test_blocks_by_pointer_are_those_by_descriptor(dtype):
    p = problem([40, 50], dtype=dtype)
    by_descriptor, by_pointer = sums(p), sums(p)
    accumulate(p, by_descriptor, AUTO_FILTER_EPS, descriptors=True)
    accumulate(p, by_pointer, AUTO_FILTER_EPS, descriptors=False)
    assert by_descriptor.weight.abs().sum() > 0
    for name in ("hidden", "weight", "weight_rest"):
        one, other = getattr(by_descriptor, name), getattr(by_pointer, name)
        assert (one is None and other is None) or torch.equal(one, other), name


def test_a_width_that_descriptors_cannot_address():
    """Rows of 9 numbers do not begin at multiples of 16 bytes."""
    p = problem([5, 9], hidden=9)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend="triton", filter_eps=0.0)
    assert all(error(a, e) < 3e-5 for a, e in zip(actual, expected, strict=True))


def test_a_weights_gradient_that_is_not_a_number_stays_so():
    p = problem([5, 9], dtype=torch.bfloat16)
    p["hidden"][0] = float("nan")
    _, (gradient,) = gradients(linear_preference_loss, p, ["weight"], backend="triton", filter_eps=0.0)
    assert gradient.isnan().all()


def test_picks_triton_for_cuda_tensors_only(monkeypatch):
    tensor = torch.zeros(1, device="cpu")
    assert resolve_backend(None, tensor) in ("cpu", "eager")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="backend='triton' runs on CUDA tensors, got tensors on cpu"):
        resolve_backend("triton", tensor)


def test_bfloat16_sums_of_the_weights_gradient_lose_nothing_but_the_last_rounding():
    """12 groups of tokens are added to the same rows: rounded every time, they would be off by several times more."""
    p = problem([256] * 24, hidden=16, vocab=20, dtype=torch.bfloat16)

    def weight_gradient(weight: torch.Tensor, rest: torch.Tensor | None) -> torch.Tensor:
        accumulate(p, Gradients(None, weight, rest, None), 0.0)
        return weight.float()

    exact = weight_gradient(torch.zeros_like(p["weight"], dtype=torch.float32), None)
    rounded = weight_gradient(torch.zeros_like(p["weight"]), None)
    once = 2**-7  # the interpreter cuts off where a GPU rounds
    assert error(weight_gradient(*backend.weight_sums(p["weight"])), exact) < once < 2 * once < error(rounded, exact)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_loss_that_is_scaled_scales_its_gradients(factor):
    p = problem([5, 9])
    _, whole = gradients(linear_preference_loss, p, backend="triton")
    _, scaled = gradients(lambda **a: factor * linear_preference_loss(**a).loss, p, backend="triton")
    assert all(error(a, factor * e) < 1e-6 for a, e in zip(scaled, whole, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_can_be_captured_in_a_cuda_graph():
    """Replayed on other inputs, it makes the gradients of those."""
    p, other = problem([300, 400, 5, 7]), problem([300, 400, 5, 7], seed=1)
    leaves = {name: p[name].requires_grad_() for name in ("hidden", "weight")}

    def step():
        loss = linear_preference_loss(**p, backend="triton").loss
        return loss, *torch.autograd.grad(loss, list(leaves.values()))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # compiles, tunes
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name, value in p.items():
            value.copy_(other[name])
    graph.replay()
    _, expected = gradients(linear_preference_loss, other, backend="triton")
    assert all(error(a, e) < 1e-5 for a, e in zip(captured[1:], expected, strict=True))


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


def test_float16_is_refused():
    """Its gradients with respect to the logits would underflow."""
    with pytest.raises(ValueError, match=r"backend='triton' takes float32 and bfloat16, got torch.float16"):
        linear_preference_loss(**problem([2, 2], dtype=torch.float16), backend="triton")
