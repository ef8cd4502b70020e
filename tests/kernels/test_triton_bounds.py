"""The Triton kernels touch nothing but their arguments, at shapes that leave every block ragged."""

import math

import pytest
import torch
from problems import gradients, problem

from advgame.kernels import linear_logprobs, linear_policy_loss, linear_preference_loss, sample_top_p
from advgame.kernels.decoding import BLOCK, cache_tokens, cached_attention

triton = pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the probes are in the interpreter", allow_module_level=True)

import triton.language as tl  # noqa: E402
from bounds import OutOfBounds, checked_bounds  # noqa: E402

backend = pytest.importorskip("advgame.kernels.triton")

pytestmark = pytest.mark.filterwarnings("ignore")  # the interpreter warns about numbers that are never stored

LOSS = {"forward_kernel", "combine_kernel", "count_kernel", "compact_kernel", "gather_kernel", "hidden_kernel",
        "weight_kernel", "scale_kernel"}  # fmt: skip
FILTER = {"energy_kernel", "below_kernel"}


@triton.jit
def copy_kernel(source, target, size, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + places, tl.load(source + places, mask=places < size, other=0.0), mask=places < size)


def test_the_probes_notice_one_number_too_many():
    source, target = torch.arange(11.0)[2:9], torch.zeros(7)
    with checked_bounds() as ran:
        copy_kernel[(1,)](source, target, 7, BLOCK=8)
        with pytest.raises(Exception, match="copy_kernel: 1 of 8 addresses") as found:
            copy_kernel[(1,)](source, target, 8, BLOCK=8)
    assert OutOfBounds.__name__ in str(found.value) and ran == ["copy_kernel"] * 2
    assert target.tolist() == source.tolist()


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
@pytest.mark.parametrize(
    ("lengths", "hidden", "vocab", "dtype", "options"),
    [
        ([1, 0], 1, 1, torch.float32, {}),
        ([1, 2], 9, 65, torch.bfloat16, {"with_bias": True}),
        ([127, 2], 33, 257, torch.float32, {"logit_softcap": 3.0}),
        ([300, 213], 8, 129, torch.float32, {"chunk_tokens": 129}),
        ([40, 0, 0, 25], 16, 1025, torch.float32, {"return_entropy": True}),
    ],
)
def test_losses_stay_inside(lengths, hidden, vocab, dtype, options, filter_eps):
    p = problem(lengths, hidden=hidden, vocab=vocab, dtype=dtype)
    p["targets"][0] = vocab - 1
    options = dict(options)
    names = ["hidden", "weight"]
    if options.pop("with_bias", False):
        p["bias"], names = torch.linspace(-1, 1, vocab), [*names, "bias"]
    with checked_bounds() as ran:
        gradients(linear_preference_loss, p, names, backend="triton", filter_eps=filter_eps, **options)
    assert {*ran} == LOSS | (FILTER if filter_eps else set())


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e38, 1e-40])
@pytest.mark.parametrize("name", ["hidden", "weight", "advantages"])
def test_poison_leads_nowhere_else(name, poison):
    """Columns are chosen by numbers: NaN and infinity must not choose one that is not there."""
    p = problem([5, 30], vocab=70) | {"advantages": torch.tensor([1.0, -1.0])}
    del p["reference_logps"]
    p[name].view(-1)[1] = poison
    with checked_bounds():
        gradients(linear_policy_loss, p, backend="triton")


@pytest.mark.parametrize("descriptors", [True, False])
def test_log_probs_by_pointer_and_by_descriptor(descriptors, monkeypatch):
    p = problem([130], hidden=24, vocab=140)
    monkeypatch.setattr(backend.launch, "has_tma", lambda generation: descriptors)
    with checked_bounds() as ran:
        leaves = [p[name].requires_grad_() for name in ("hidden", "weight")]
        linear_logprobs(*leaves, p["targets"], temperature=0.7, backend="triton").sum().backward()
    assert "weight_kernel" in ran


@pytest.mark.parametrize("piece", [(0, 49), (2, 17), (-1, 2), (0, -2), (0, 2**31 - 1), (2**31 - 1, 2), (-(2**31), 9)])
@pytest.mark.parametrize("width", [1, 24, 64])
def test_attention_stays_in_the_cache(piece, width):
    """Which it is not asked for: pieces are not looked at before they are used."""
    keys, values = torch.randn(2, 3, width, BLOCK), torch.randn(2, 3, BLOCK, width)
    pieces = torch.tensor([[(0, 20), piece], [piece, (2, 16)]], dtype=torch.int32)
    with checked_bounds() as ran:
        output = cached_attention(torch.randn(2, 6, width), keys, values, pieces, backend="triton")
    assert ran == ["attention_kernel"] and output.isfinite().all()


@pytest.mark.parametrize("place", [48, -1, 2**40, -(2**40)])
def test_tokens_stay_in_the_cache(place):
    keys, values = torch.zeros(2, 3, 24, BLOCK), torch.zeros(2, 3, BLOCK, 24)
    with checked_bounds() as ran:
        token = torch.ones(2, 2, 24)
        cache_tokens(keys, values, token, token, torch.tensor([place, 47]), backend="triton")
    assert ran == ["cache_kernel"] and keys.sum() == values.sum() == 48
    assert keys[:, 2, :, 15].all() and values[:, 2, 15].all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-40])
@pytest.mark.parametrize("vocab", [1, 9, 2049])
def test_draws_stay_in_the_vocabulary(vocab, poison):
    logits, draws = torch.randn(2, vocab), torch.tensor([0.0, 0.999], dtype=torch.float64)
    logits[0, vocab // 2] = poison
    with checked_bounds() as ran:
        try:
            tokens, _ = sample_top_p(logits, draws, top_p=0.9, backend="triton")
        except ValueError:
            assert not math.isfinite(poison)
        else:
            assert ((tokens >= 0) & (tokens < vocab)).all()
    assert ran == ["sample_kernel"]
