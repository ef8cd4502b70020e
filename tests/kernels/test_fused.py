"""The fused backends against the eager oracle in float64: values, gradients, edge cases."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import device_of, error, gradients, in_float64, problem

from advgame.kernels import (
    PreferenceInputs,
    fused,
    linear_game_loss,
    linear_logprobs,
    linear_policy_loss,
    linear_preference_loss,
)
from advgame.kernels.extension import BUILT

pytestmark = [
    pytest.mark.skipif(not BUILT, reason="C++ operators not built"),
    pytest.mark.filterwarnings("ignore"),  # the interpreter warns about numbers that are never stored
]


@pytest.fixture(autouse=True, scope="module", params=["cpu", "cpu without AMX", "triton"])
def backend(request):
    """What every test runs on. The two ways of csrc/factor.cpp are one where the processor has no AMX."""
    name, *without_amx = request.param.split(maxsplit=1)
    with torch.backends.mkldnn.flags(enabled=not without_amx), device_of(name):
        yield name


def compare(backend, function, arguments, tolerance, names=("hidden", "weight"), **options):
    """The backend within `tolerance` (relative) of the float64 oracle."""
    exact, expected = gradients(function, in_float64(arguments), names, backend="eager", **options)
    output, actual = gradients(function, arguments, names, backend=backend, filter_eps=0.0, **options)
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=1e-4, abs=1e-5)
    for name, a, e in zip(names, actual, expected, strict=True):
        assert error(a, e) < tolerance, name
    return output, exact


OPTIONS = [
    {},
    {"loss": "ipo", "beta": 0.5},
    {"length_normalize": True, "nll_weight": 0.3},
    {"label_smoothing": 0.2, "beta": 0.7},
    {"logit_softcap": 4.0},
]


@pytest.mark.parametrize("vocab", [1, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("options", OPTIONS)
def test_exact_mode_equals_the_oracle(backend, vocab, options):
    p = problem([5, 9, 1, 1, 30, 2], vocab=vocab)
    output, exact = compare(backend, linear_preference_loss, p, 2e-5 if vocab > 1 else math.inf, **options)
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5, atol=1e-4)
    assert torch.allclose(output.chosen_rewards.double(), exact.chosen_rewards, rtol=1e-4, atol=1e-4)
    assert torch.allclose(output.rejected_rewards.double(), exact.rejected_rewards, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "cpu without AMX"], indirect=True)  # the interpreter is too slow
@settings(max_examples=30)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5),
    chunk=st.sampled_from([1, 7, 64, 512]),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 100),
)
def test_any_lengths_and_any_chunk(backend, pairs, chunk, options, seed):
    """Empty sequences, one-token sequences, pairs longer than the buffer, several pairs in a chunk."""
    p = problem([length for pair in pairs for length in pair], seed=seed)
    compare(backend, linear_preference_loss, p, 3e-5, chunk_tokens=chunk, **options)


@given(st.lists(st.integers(0, 30), min_size=0, max_size=12), st.integers(1, 40))
def test_chunks_cover_every_unit_once_and_fit(lengths, limit):
    boundaries = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    chunks = fused.group_into_chunks(boundaries, limit)
    assert [unit for first, last in chunks for unit in range(first, last)] == list(range(len(lengths)))
    for first, last in chunks:
        assert last - first == 1 or boundaries[last] - boundaries[first] <= limit
        parts = list(fused.pieces(boundaries[first], boundaries[last], limit))
        assert parts[0][0] == boundaries[first] and parts[-1][1] == boundaries[last]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
        assert all(end - begin <= limit for begin, end in parts)


@pytest.mark.parametrize("eps", [1e-3, 1e-2, 1e-1])
def test_filter_eps_bounds_the_error_of_the_logits_gradient(backend, eps):
    """With the identity as head and no tail to restore in dW, dX's and dW's errors are those of dL."""
    p = problem([60, 70, 80, 90], hidden=16, vocab=3000, scale=1.5)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=eps)
    assert 0 < error(actual[1], expected[1]) < 2 * eps
    assert 0 < error(actual[0], expected[0]) < 4 * eps


def test_the_tail_correction_restores_what_the_dropped_columns_have_in_common(backend):
    """Where all dropped columns have one embedding, dX is as good as exact though dW shows what was dropped."""
    p = problem([100, 100], hidden=16, vocab=5000, scale=1.5)
    p["targets"] = p["targets"] % 4
    p["weight"][4:] = p["weight"][4].clone()
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=0.03)
    assert error(actual[1], expected[1]) > 5e-3
    assert error(actual[0], expected[0]) < 5e-4


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_bfloat16_accumulates_in_float32(backend, filter_eps):
    p = problem([40, 50, 60, 20], hidden=64, vocab=1000, dtype=torch.bfloat16, scale=0.5)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    output, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)
    exact = linear_preference_loss(**in_float64(p), backend="eager")
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5)
    assert [a.dtype for a in actual] == [torch.bfloat16] * 2
    # Half a bfloat16 ulp, 2^-9: on a CPU of the result only, on a GPU of dL too (which the interpreter truncates).
    bound = 2**-8 if backend == "cpu" else 2**-7
    assert all(error(a, e) < bound for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
@pytest.mark.parametrize("names", [("hidden",), ("weight",), ("hidden", "bias"), ("bias",)])
def test_only_what_is_not_frozen_gets_a_gradient(backend, names, filter_eps):
    p = problem([20, 30]) | {"bias": torch.linspace(-1, 1, 300)}
    _, expected = gradients(linear_preference_loss, in_float64(p), names, backend="eager")
    _, actual = gradients(linear_preference_loss, p, names, backend=backend, filter_eps=filter_eps)
    tolerance = 2e-5 if filter_eps == 0 else 6e-3
    assert all(error(a, e) < tolerance for a, e in zip(actual, expected, strict=True))


def test_without_gradients_none_are_made(backend):
    p = problem([20, 30])
    output = linear_preference_loss(**p, backend=backend)
    assert not output.loss.requires_grad
    p["hidden"].requires_grad_()
    with torch.no_grad():
        assert not linear_preference_loss(**p, backend=backend).loss.requires_grad


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_nothing_in_nothing_out(backend, filter_eps):
    for lengths in ([], [0, 0]):
        p = problem(lengths)
        output, (d_hidden, d_weight) = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)
        assert output.sequence_logps.shape == (len(lengths),)
        assert d_hidden.shape == (0, 16) and d_weight.abs().sum() == 0
    logps = linear_logprobs(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0, dtype=torch.int64), backend=backend)
    assert logps.shape == (0,)


def test_strided_inputs(backend):
    p = problem([20, 30])
    strided = dict(p)
    strided["hidden"] = torch.randn(50, 32)[:, ::2].copy_(p["hidden"])
    strided["weight"] = p["weight"].T.contiguous().T
    strided["targets"] = torch.stack([p["targets"], p["targets"] * 0], dim=1)[:, 0]
    assert not strided["hidden"].is_contiguous() and not strided["weight"].is_contiguous()
    for filter_eps in (0.0, 1e-3):
        plain = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)[1]
        other = gradients(linear_preference_loss, strided, backend=backend, filter_eps=filter_eps)[1]
        assert all(error(a, b.double()) < 1e-5 for a, b in zip(other, plain, strict=True))


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_saturated_and_huge(backend, filter_eps):
    """Margins so large that the slope vanishes, and logits so large that exp would overflow."""
    p = problem([20, 30, 20, 30])
    p["reference_logps"] = torch.tensor([-1e6, 0.0, 0.0, -1e6])
    output, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    assert all(error(a, e) < 6e-3 for a, e in zip(actual, expected, strict=True))
    p["reference_logps"] = torch.tensor([-1e6, 0.0, -1e6, 0.0])  # every pair saturated: no gradient at all
    output, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)
    assert output.loss.item() == 0 and all(a.abs().max() == 0 for a in actual)

    p = problem([5, 6], scale=1e4)
    output, actual = gradients(linear_preference_loss, p, backend=backend, filter_eps=filter_eps)
    exact, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5)
    assert all(torch.isfinite(a).all() and error(a, e) < 6e-3 for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("softcap", [1e-3, 1e-2])
def test_a_small_softcap(backend, softcap):
    """Nearly all logits are capped. The slope at the target is that of its own logit, not of a difference of two
    numbers that are a thousand times as large; what error is left is that of the products, as in plain float32."""
    p = problem([40, 50, 6, 7])
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager", logit_softcap=softcap)
    _, plain = gradients(linear_preference_loss, p, backend="eager", logit_softcap=softcap)
    _, actual = gradients(linear_preference_loss, p, backend=backend, logit_softcap=softcap, filter_eps=0.0)
    for a, e, by_eager in zip(actual, expected, plain, strict=True):
        assert error(a, e) < 2 * error(by_eager, e)


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_forbidden_tokens(backend, filter_eps):
    """A bias of -inf, over whole tiles of the vocabulary too: no mass, no NaN, no gradient."""
    p = problem([20, 30], vocab=700)
    bias = torch.zeros(700)
    bias[256:600] = -torch.inf
    p["targets"] = p["targets"] % 256
    output, (d_hidden, d_weight) = gradients(
        linear_preference_loss, p | {"bias": bias}, backend=backend, filter_eps=filter_eps
    )
    _, expected = gradients(linear_preference_loss, in_float64(p | {"bias": bias}), backend="eager")
    assert torch.isfinite(output.sequence_logps).all()
    assert d_weight[256:600].abs().max() == 0
    assert error(d_hidden, expected[0]) < 6e-3 and error(d_weight, expected[1]) < 6e-3
    p["targets"][3] = 300
    assert linear_preference_loss(**p, bias=bias, backend=backend).sequence_logps[0].item() == -math.inf


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"logit_softcap": 3.0, "temperature": 1.5},
        {"bias": torch.linspace(-2, 2, 300)},
    ],
)
def test_logprobs_and_entropy(backend, options):
    p = problem([700], hidden=8)
    arguments = {key: p[key] for key in ("hidden", "weight", "targets")} | options
    coefficients = torch.linspace(-1, 1, 700)

    def weighted(backend, arguments, **more):
        leaves = {key: arguments[key].clone().requires_grad_() for key in ("hidden", "weight")}
        logps, entropy = linear_logprobs(**arguments | leaves, return_entropy=True, backend=backend, **more)
        (logps * coefficients.to(logps)).sum().backward()
        return logps, entropy, *(leaf.grad for leaf in leaves.values())

    expected = weighted("eager", in_float64(arguments))
    actual = weighted(backend, arguments, filter_eps=0.0)
    assert torch.allclose(actual[0].double(), expected[0], atol=2e-5, rtol=1e-5)
    assert torch.allclose(actual[1].double(), expected[1], atol=2e-5, rtol=1e-5)
    assert not actual[1].requires_grad
    assert error(actual[2], expected[2]) < 2e-5 and error(actual[3], expected[3]) < 2e-5
    filtered = weighted(backend, arguments)
    assert torch.allclose(filtered[0].double(), expected[0], atol=1e-4, rtol=1e-5)
    assert error(filtered[2], expected[2]) < 6e-3 and error(filtered[3], expected[3]) < 3e-3


@pytest.mark.parametrize("normalization", ["length_normalized", "token_mean", "sum"])
@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_policy_loss(backend, normalization, sampling, beta):
    lengths = [4, 0, 9, 1, 600]
    p = problem(lengths, hidden=8)
    logps = linear_logprobs(p["hidden"], p["weight"], p["targets"], backend="eager")
    noise = torch.randn(len(logps), generator=torch.Generator().manual_seed(1), device="cpu").to(logps)
    arguments = {key: p[key] for key in ("hidden", "weight", "targets", "cu_seqlens")} | {
        "advantages": torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]),
        "valid": torch.tensor([True, True, True, False, True]),
        "sampling_logps": logps + 0.7 * noise if sampling else None,
        "reference_logps": logps - 0.3 * noise if beta else None,
    }
    compare(backend, linear_policy_loss, arguments, 2e-5, normalization=normalization, beta=beta, importance_cap=1.5)


def test_policy_gradient_is_that_of_the_formula():
    """gradcheck of the oracle itself; sg(.) is seen through a policy that has not moved."""
    p = in_float64(problem([2, 3], hidden=3, vocab=5))
    hidden, weight = p["hidden"].requires_grad_(), p["weight"].requires_grad_()
    reference = linear_logprobs(hidden, weight, p["targets"]).detach() - 0.2
    frozen = linear_logprobs(hidden, weight, p["targets"]).detach()

    def spelt_out(hidden, weight):
        logps = linear_logprobs(hidden, weight, p["targets"])
        r = reference - logps
        token = torch.exp(logps - frozen) * torch.tensor([1.0, 1.0, -2.0, -2.0, -2.0]) - 0.3 * (r.exp() - r - 1)
        return -(token[:2].mean() + token[2:].mean()) / 2

    loss = linear_policy_loss(
        hidden, weight, p["targets"], p["cu_seqlens"], torch.tensor([1.0, -2.0]).double(),
        reference_logps=reference, beta=0.3,
    ).loss  # fmt: skip
    assert loss.item() == pytest.approx(spelt_out(hidden, weight).item())
    assert torch.autograd.gradcheck(spelt_out, (hidden, weight))
    for a, b in zip(
        torch.autograd.grad(loss, (hidden, weight)),
        torch.autograd.grad(spelt_out(hidden, weight), (hidden, weight)),
        strict=True,
    ):
        assert torch.allclose(a, b)


def test_game_loss_is_the_sum_of_two_players_of_different_models():
    players = [PreferenceInputs(**problem([9, 8], hidden=16, vocab=300)),
               PreferenceInputs(**problem([5, 5, 7, 1], hidden=24, vocab=513, seed=1))]  # fmt: skip
    for player in players:
        player.hidden.requires_grad_()
        player.weight.requires_grad_()
    game = linear_game_loss(*players, beta=0.3, return_entropy=True)
    game.loss.backward()
    for player, output in zip(players, (game.attacker, game.defender), strict=True):
        alone, expected = gradients(linear_preference_loss, vars(player), beta=0.3)
        assert torch.equal(output.loss, alone.loss)
        assert torch.equal(player.hidden.grad, expected[0]) and torch.equal(player.weight.grad, expected[1])
        assert output.entropy.shape == (len(player.targets),)


def test_tied_embeddings_add_up(backend):
    """The head's weight is the embedding too: both contributions reach it."""
    p = problem([6, 7])
    weight = p["weight"].clone().requires_grad_()
    inputs = torch.arange(13)

    def loss(weight, **options):
        return linear_preference_loss(**p | {"hidden": torch.tanh(weight[inputs]), "weight": weight}, **options).loss

    (actual,) = torch.autograd.grad(loss(weight, backend=backend, filter_eps=0.0), weight)
    p = in_float64(p)
    weight = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(loss(weight, backend="eager"), weight)
    assert error(actual, expected) < 2e-5


def test_scaled_repeated_and_accumulated_backward(backend):
    p = problem([6, 7])
    hidden = p["hidden"].clone().requires_grad_()
    loss = linear_preference_loss(**p | {"hidden": hidden}, backend=backend).loss
    (once,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (scaled,) = torch.autograd.grad(3 * loss, hidden, retain_graph=True)
    assert torch.allclose(scaled, 3 * once)
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.allclose(hidden.grad, 2 * once)


def test_deterministic(backend):
    p = problem([60, 70, 30, 20], vocab=3000)
    runs = [gradients(linear_preference_loss, p, backend=backend)[1] for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
