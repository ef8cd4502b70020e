"""linear_logprobs and linear_preference_loss: against their definitions, spelt out in float64."""

import itertools
import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgame.kernels import linear_logprobs, linear_preference_loss
from advgame.kernels.extension import BUILT


@pytest.mark.skipif(not os.environ.get("CI"), reason="a machine without a compiler may go without")
def test_the_operators_are_built():
    """Else half of the tests would be skipped."""
    assert BUILT


def problem(lengths, hidden=5, vocab=11, dtype=torch.float64, seed=0) -> dict:
    """Random arguments for sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    return {
        "hidden": torch.randn(tokens, hidden, generator=generator, dtype=torch.float64).to(dtype),
        "weight": torch.randn(vocab, hidden, generator=generator, dtype=torch.float64).to(dtype),
        "targets": torch.randint(vocab, (tokens,), generator=generator),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "reference_logps": -10 * torch.rand(len(lengths), generator=generator, dtype=torch.float64),
    }


def spelt_out(
    p, loss="dpo", beta=0.1, length_normalize=False, label_smoothing=0.0, nll_weight=0.0, bias=None, logit_softcap=None
) -> float:
    """The mean loss, one token and one pair at a time, in Python floats."""
    bounds, sums, lengths = p["cu_seqlens"].tolist(), [], []
    for begin, end in itertools.pairwise(bounds):
        total = 0.0
        for t in range(begin, end):
            logits = [
                sum(w * h for w, h in zip(row, p["hidden"][t].tolist(), strict=True)) for row in p["weight"].tolist()
            ]
            if bias is not None:
                logits = [x + b for x, b in zip(logits, bias.tolist(), strict=True)]
            if logit_softcap is not None:
                logits = [logit_softcap * math.tanh(x / logit_softcap) for x in logits]
            total += logits[p["targets"][t]] - math.log(math.fsum(math.exp(x) for x in logits))
        sums.append(total)
        lengths.append(max(end - begin, 1))
    losses = []
    for i in range(0, len(sums), 2):
        s = [sums[j] - p["reference_logps"][j].item() for j in (i, i + 1)]
        if length_normalize:
            s = [x / lengths[i + j] for j, x in enumerate(s)]
        m = s[0] - s[1]
        if loss == "dpo":
            value = (1 - label_smoothing) * math.log1p(math.exp(-beta * m)) + label_smoothing * math.log1p(
                math.exp(beta * m)
            )
        else:
            value = (m - 1 / (2 * beta)) ** 2
        losses.append(value - nll_weight * sums[i] / lengths[i])
    return sum(losses) / max(len(losses), 1)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4),
    loss=st.sampled_from(["dpo", "ipo"]),
    length_normalize=st.booleans(),
    smooth=st.booleans(),
    nll_weight=st.sampled_from([0.0, 0.3]),
    with_bias=st.booleans(),
    logit_softcap=st.sampled_from([None, 3.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(pairs, loss, length_normalize, smooth, nll_weight, with_bias, logit_softcap, seed):
    p = problem([length for pair in pairs for length in pair], seed=seed)
    options = {
        "loss": loss,
        "length_normalize": length_normalize,
        "label_smoothing": 0.1 if smooth and loss == "dpo" else 0.0,
        "nll_weight": nll_weight,
        "bias": torch.linspace(-1, 1, 11, dtype=torch.float64) if with_bias else None,
        "logit_softcap": logit_softcap,
    }
    output = linear_preference_loss(**p, **options)
    assert output.loss.item() == pytest.approx(spelt_out(p, **options), rel=1e-9, abs=1e-9)
    assert output.sequence_logps.shape == (2 * len(pairs),)
    assert output.chosen_rewards.shape == output.rejected_rewards.shape == (len(pairs),)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "ipo"},
        {"length_normalize": True, "nll_weight": 0.5},
        {"label_smoothing": 0.2, "logit_softcap": 2.0},
    ],
)
def test_gradcheck(options):
    p = problem([3, 1, 2, 4], hidden=3, vocab=5)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    p["hidden"].requires_grad_()
    p["weight"].requires_grad_()

    def loss(hidden, weight, bias):
        return linear_preference_loss(**p | {"hidden": hidden, "weight": weight}, bias=bias, **options).loss

    assert torch.autograd.gradcheck(loss, (p["hidden"], p["weight"], bias))


def test_rewards_and_sums_are_those_of_dpo():
    p = problem([2, 3, 1, 1])
    output = linear_preference_loss(**p, beta=0.5)
    logps = linear_logprobs(p["hidden"], p["weight"], p["targets"])
    sums = torch.stack([part.sum() for part in logps.split([2, 3, 1, 1])])
    assert torch.allclose(output.sequence_logps, sums)
    assert torch.allclose(output.chosen_rewards, 0.5 * (sums - p["reference_logps"])[0::2])
    assert torch.allclose(output.rejected_rewards, 0.5 * (sums - p["reference_logps"])[1::2])


def test_nothing_in_nothing_out():
    p = problem([])
    p["hidden"].requires_grad_()
    output = linear_preference_loss(**p)
    assert output.loss.item() == 0
    output.loss.backward()
    assert p["hidden"].grad.shape == (0, 5)


def test_frozen_head_and_frozen_hidden():
    p = problem([2, 2])
    p["hidden"].requires_grad_()
    linear_preference_loss(**p).loss.backward()
    assert p["hidden"].grad.abs().sum() > 0 and p["weight"].grad is None
    p = problem([2, 2])
    p["weight"].requires_grad_()
    linear_preference_loss(**p).loss.backward()
    assert p["weight"].grad.abs().sum() > 0 and p["hidden"].grad is None


def test_strided_inputs_give_the_same():
    p = problem([3, 2])
    strided = p | {"hidden": p["hidden"].T.contiguous().T, "weight": p["weight"].T.contiguous().T}
    assert not strided["hidden"].is_contiguous()
    assert linear_preference_loss(**strided).loss.item() == pytest.approx(linear_preference_loss(**p).loss.item())


def test_bfloat16_is_accumulated_in_float32():
    p = problem([30, 40], hidden=64, vocab=501, dtype=torch.bfloat16)
    exact = {k: v.double() if k in ("hidden", "weight") else v for k, v in p.items()}
    output, expected = linear_preference_loss(**p), linear_preference_loss(**exact)
    assert output.sequence_logps.dtype == torch.float32
    assert torch.allclose(output.sequence_logps.double(), expected.sequence_logps, rtol=1e-6)


def test_huge_logits_stay_finite():
    p = problem([2, 2])
    p["hidden"] = (p["hidden"] * 1e4).float().requires_grad_()
    p["weight"] = p["weight"].float()
    output = linear_preference_loss(**p)
    output.loss.backward()
    assert torch.isfinite(output.loss) and torch.isfinite(p["hidden"].grad).all()


def test_a_forbidden_token_has_log_prob_minus_infinity():
    logps = linear_logprobs(
        torch.ones(2, 1), torch.ones(3, 1), torch.tensor([0, 1]), bias=torch.tensor([0.0, -torch.inf, 0.0])
    )
    assert logps[0].item() == pytest.approx(-math.log(2)) and logps[1].item() == -math.inf


def test_temperature_divides_the_logits():
    p = problem([4])
    scaled = linear_logprobs(p["hidden"] / 0.7, p["weight"], p["targets"])
    assert torch.allclose(linear_logprobs(p["hidden"], p["weight"], p["targets"], temperature=0.7), scaled)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": torch.zeros(4)}, "hidden"),
        ({"hidden": torch.zeros(4, 5, dtype=torch.int64)}, "hidden"),
        ({"weight": torch.zeros(11, 4, dtype=torch.float64)}, "weight"),
        ({"weight": torch.zeros(11, 5, dtype=torch.float32)}, "weight"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "targets"),
        ({"targets": torch.zeros(4, dtype=torch.int32)}, "targets"),
        ({"targets": torch.tensor([0, 1, 2, 11])}, "targets"),
        ({"targets": torch.tensor([0, 1, -100, 2])}, "targets"),
        ({"targets": torch.zeros(4, dtype=torch.int64, device="meta")}, "targets"),
        ({"cu_seqlens": torch.tensor([0, 2, 4])}, "cu_seqlens"),
        ({"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32)}, "cu_seqlens"),
        ({"cu_seqlens": torch.tensor([0, 2, 3], dtype=torch.int32)}, "cu_seqlens"),
        ({"cu_seqlens": torch.tensor([1, 2, 4], dtype=torch.int32)}, "cu_seqlens"),
        ({"cu_seqlens": torch.tensor([0, 5, 4], dtype=torch.int32)}, "cu_seqlens"),
        ({"reference_logps": torch.zeros(3)}, "reference_logps"),
        ({"reference_logps": torch.zeros(2, dtype=torch.int64)}, "reference_logps"),
        ({"loss": "kto"}, "loss"),
        ({"beta": 0.0}, "beta"),
        ({"beta": math.inf}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"nll_weight": -0.1}, "nll_weight"),
        ({"nll_weight": math.inf}, "nll_weight"),
        ({"nll_weight": math.nan}, "nll_weight"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"bias": torch.zeros(10, dtype=torch.float64)}, "bias"),
        ({"logit_softcap": 0.0}, "logit_softcap"),
        ({"logit_softcap": math.inf}, "logit_softcap"),
        ({"logit_softcap": math.nan}, "logit_softcap"),
        ({"logit_softcap": 1e-40}, "logit_softcap"),
        ({"weight": torch.zeros(0, 5, dtype=torch.float64)}, "weight"),
        ({"cu_seqlens": torch.tensor([0, -1, 4], dtype=torch.int32)}, "cu_seqlens"),
        ({"chunk_tokens": 2**31}, "chunk_tokens"),
    ],
)
def test_bad_arguments_are_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        linear_preference_loss(**problem([2, 2]) | change)
