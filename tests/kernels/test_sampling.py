"""sample_top_p: C++ and Triton against plain PyTorch, and all against the definition."""

import math
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import device_of

from advgame import kernels
from advgame.kernels.extension import BUILT

BACKENDS = [
    "eager",
    pytest.param("cpu", marks=pytest.mark.skipif(not BUILT, reason="C++ operators not built")),
    pytest.param("triton", marks=pytest.mark.skipif(not find_spec("triton"), reason="no Triton")),
]


def sample_top_p(logits, draws, *, backend=None, **options):
    """Where the backend runs."""
    device = device_of(backend)
    sampled = kernels.sample_top_p(logits.to(device), draws.to(device), backend=backend, **options)
    return [tensor.cpu() for tensor in sampled]


def uniforms(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not BUILT, reason="C++ operators not built")
@given(
    rows=st.integers(1, 5),
    vocab=st.sampled_from([1, 2, 3, 17, 1000]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0]),
    temperature=st.sampled_from([0.1, 0.6, 1.0, 3.0]),
    top_p=st.sampled_from([1e-6, 0.0973, 0.4971, 0.9003, 0.9987, 1.0]),  # no mass that equal logits may have
    seed=st.integers(0, 2**31),
)
def test_backends_agree(rows, vocab, scale, temperature, top_p, seed):
    check("cpu", rows, vocab, scale, temperature, top_p, seed)


@pytest.mark.parametrize("vocab", [1, 2, 17, 2048, 4099])
@pytest.mark.parametrize("scale", [0.0, 0.1, 10.0, 1000.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.4971, 0.9987, 1.0])
def test_triton_agrees(vocab, scale, top_p):
    pytest.importorskip("triton")
    for seed, temperature in enumerate((0.0, 0.1, 1.0, 3.0)):
        check("triton", 3, vocab, scale, temperature, top_p, seed)


def check(backend, rows, vocab, scale, temperature, top_p, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab, generator=generator) * scale).round(decimals=1)  # rounded: ties happen
    logits[:, 1:][torch.rand(rows, vocab - 1, generator=generator) < 0.2] = -torch.inf
    results = [
        sample_top_p(logits, uniforms(rows, seed), temperature=temperature, top_p=top_p, backend=backend)
        for backend in ("eager", backend)
    ]
    assert torch.equal(results[0][0], results[1][0])
    largest = logits[logits.isfinite()].abs().max().item()
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-6, atol=1e-6 + 1e-6 * largest)


@pytest.mark.parametrize("backend", BACKENDS)
def test_follows_the_truncated_distribution(backend):
    """Chi-square over many draws of one row, against probabilities worked out by hand."""
    probs = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15], dtype=torch.float64)
    expected = torch.tensor([0, 0.4, 0, 0.3, 0.15], dtype=torch.float64) / 0.85  # the fewest that reach 0.8
    draws = 20_000 if backend != "triton" or torch.cuda.is_available() else 150  # its interpreter is slow
    tokens, logprobs = sample_top_p(probs.log().float().expand(draws, -1), uniforms(draws), top_p=0.8, backend=backend)
    counts = torch.bincount(tokens, minlength=5).double()
    assert counts[0] == counts[2] == 0
    chi_square = ((counts - draws * expected)[expected > 0] ** 2 / (draws * expected[expected > 0])).sum()
    assert chi_square < 18.4  # 2 degrees of freedom, p = 1e-4
    assert torch.allclose(logprobs.double(), probs.log()[tokens], atol=1e-6)  # raw, not renormalised


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_sharpens_but_logprobs_stay_raw(backend):
    draws = torch.linspace(0, 1, 200, dtype=torch.float64)[:-1]
    logits = torch.tensor([[1.0, 0.0]]).expand(len(draws), -1)
    tokens, logprobs = sample_top_p(logits, draws, temperature=0.5, backend=backend)
    assert (tokens == 0).double().mean().item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.01)
    assert logprobs[tokens == 0][0].item() == pytest.approx(-math.log(1 + math.exp(-1)), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_does_not_depend_on_its_batch(backend):
    logits, draws = torch.randn(20, 501), uniforms(20)
    together = sample_top_p(logits, draws, temperature=0.7, top_p=0.9, backend=backend)[0]
    alone = [
        sample_top_p(logits[i : i + 1], draws[i : i + 1], temperature=0.7, top_p=0.9, backend=backend)[0]
        for i in range(20)
    ]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_extremes(backend, top_p):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [1e30, 0.0, -1e30], [3e4, 3e4, -3e4]])
    for u in (0.0, 1 - 2**-53):
        tokens, logprobs = sample_top_p(logits, torch.full((3,), u, dtype=torch.float64), top_p=top_p, backend=backend)
        assert tokens[:2].tolist() == [1, 0]
        assert tokens[2] in (0, 1)
        assert logprobs[:2].tolist() == [0.0, 0.0]
    empty = sample_top_p(torch.zeros(0, 7), uniforms(0), top_p=top_p, backend=backend)
    assert empty[0].shape == empty[1].shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_zero_takes_the_most_probable(backend):
    logits = torch.randn(9, 33).round()  # the first of equal ones
    tokens, logprobs = sample_top_p(logits, uniforms(9), temperature=0, backend=backend)
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.allclose(logprobs, logits.log_softmax(-1).max(-1).values, atol=1e-6)


def test_reads_non_contiguous_and_bfloat16_logits():
    logits = torch.randn(33, 8).to(torch.bfloat16)
    draws = uniforms(16)[::2]
    tokens, _ = sample_top_p(logits.T, draws, top_p=0.9)
    assert torch.equal(tokens, sample_top_p(logits.T.contiguous().float(), draws.contiguous(), top_p=0.9)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"logits": torch.zeros(3)}, "logits"),
        ({"logits": torch.zeros(3, 0)}, "logits"),
        ({"logits": torch.zeros(3, 4, dtype=torch.int64)}, "logits"),
        ({"logits": torch.full((3, 4), -torch.inf)}, "logits"),
        ({"logits": torch.full((3, 4), torch.nan)}, "logits"),
        ({"uniforms": torch.zeros(2, dtype=torch.float64)}, "uniforms"),
        ({"uniforms": torch.zeros(3)}, "uniforms"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"temperature": 1e-10, "logits": torch.full((3, 4), 1e30)}, "temperature"),
        ({"temperature": 0, "logits": torch.full((3, 4), torch.nan)}, "logits"),
        ({"temperature": 0, "uniforms": torch.full((3,), 1.0, dtype=torch.float64)}, "uniforms"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"backend": "tpu"}, "backend"),
    ],
)
def test_bad_arguments_are_named(backend, change, named):
    good = {"logits": torch.zeros(3, 4), "uniforms": torch.zeros(3, dtype=torch.float64), "backend": backend}
    arguments = good | change
    with pytest.raises(ValueError, match=f"^{named}"):
        sample_top_p(arguments.pop("logits"), arguments.pop("uniforms"), **arguments)


def test_works_without_the_extension():
    """The operators not built: one clear warning, then the plain path."""
    program = (
        "import sys, warnings; sys.modules['advgame.kernels._C'] = None\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always'); from advgame.kernels import sample_top_p\n"
        "print([str(w.message) for w in caught if 'advgame' in str(w.message)])\n"
        "import torch; print(sample_top_p(torch.eye(3) * 99, torch.full((3,), 0.5, dtype=torch.float64))[0].tolist())\n"
        "try: sample_top_p(torch.eye(3), torch.zeros(3, dtype=torch.float64), backend='cpu')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    warning, tokens, error = done.stdout.splitlines()
    assert "pip install" in warning and warning.count("not built") == 1
    assert tokens == "[0, 1, 2]"
    assert "not built" in error
