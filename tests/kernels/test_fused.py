"""The fused CPU path against the eager oracle in float64: values, gradients, edge cases, errors, torch.compile."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advgame.kernels import (
    PreferenceInputs,
    fused,
    linear_game_loss,
    linear_logprobs,
    linear_policy_loss,
    linear_preference_loss,
)
from advgame.kernels.extension import BUILT

pytestmark = pytest.mark.skipif(not BUILT, reason="C++ operators not built")


@pytest.fixture(autouse=True, params=["bfloat16 tiles", "float32 GEMMs"])
def products(request):
    """Both ways of csrc/factor.cpp, on a processor that has AMX; the same one twice elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=request.param == "bfloat16 tiles"):
            yield


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Frobenius error; NaN and shape mismatches do not pass."""
    assert actual.shape == expected.shape
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def problem(lengths, hidden=16, vocab=300, dtype=torch.float32, scale=1.0, seed=0) -> dict:
    """Arguments of linear_preference_loss for random sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    return {
        "hidden": (scale * torch.randn(tokens, hidden, generator=generator)).to(dtype),
        "weight": torch.randn(vocab, hidden, generator=generator).to(dtype),
        "targets": torch.randint(vocab, (tokens,), generator=generator),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "reference_logps": -6 * torch.tensor(lengths) * (0.8 + 0.4 * torch.rand(len(lengths), generator=generator)),
    }


def in_float64(arguments: dict) -> dict:
    return {
        key: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in arguments.items()
    }


def gradients(function, arguments: dict, names=("hidden", "weight"), **options):
    """(output, gradients by `names`)."""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in names}
    output = function(**arguments | leaves, **options)
    loss = output.loss if hasattr(output, "loss") else output
    loss.backward()
    return output, [leaf.grad for leaf in leaves.values()]


def compare(function, arguments, tolerance, names=("hidden", "weight"), **options):
    """The CPU backend within `tolerance` (relative) of the float64 oracle."""
    exact, expected = gradients(function, in_float64(arguments), names, backend="eager", **options)
    output, actual = gradients(function, arguments, names, backend="cpu", filter_eps=0.0, **options)
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
def test_exact_mode_equals_the_oracle(vocab, options):
    p = problem([5, 9, 1, 1, 30, 2], vocab=vocab)
    output, exact = compare(linear_preference_loss, p, 2e-5 if vocab > 1 else math.inf, **options)
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5, atol=1e-4)
    assert torch.allclose(output.chosen_rewards.double(), exact.chosen_rewards, rtol=1e-4, atol=1e-4)
    assert torch.allclose(output.rejected_rewards.double(), exact.rejected_rewards, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5),
    chunk=st.sampled_from([1, 7, 64, 512]),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 100),
)
def test_any_lengths_and_any_chunk(pairs, chunk, options, seed):
    """Empty sequences, one-token sequences, pairs longer than the buffer, several pairs in a chunk."""
    p = problem([length for pair in pairs for length in pair], seed=seed)
    before = fused.CHUNK_TOKENS
    fused.CHUNK_TOKENS = chunk
    try:
        compare(linear_preference_loss, p, 3e-5, **options)
    finally:
        fused.CHUNK_TOKENS = before


@given(st.lists(st.integers(0, 30), min_size=0, max_size=12), st.integers(1, 40))
def test_chunks_cover_every_unit_once_and_fit(lengths, limit):
    boundaries = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    before, fused.CHUNK_TOKENS = fused.CHUNK_TOKENS, limit
    try:
        chunks = fused.group_into_chunks(boundaries)
        assert [unit for first, last in chunks for unit in range(first, last)] == list(range(len(lengths)))
        for first, last in chunks:
            assert last - first == 1 or boundaries[last] - boundaries[first] <= limit
            parts = list(fused.pieces(boundaries[first], boundaries[last], limit))
            assert parts[0][0] == boundaries[first] and parts[-1][1] == boundaries[last]
            assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
            assert all(end - begin <= limit for begin, end in parts)
    finally:
        fused.CHUNK_TOKENS = before


@pytest.mark.parametrize("eps", [1e-3, 1e-2, 1e-1])
def test_filter_eps_bounds_the_error_of_the_gradient_by_the_logits(eps):
    """With the identity as head and no tail to restore in dW, dX's and dW's errors are those of dL."""
    p = problem([60, 70, 80, 90], hidden=16, vocab=3000, scale=1.5)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=eps)
    assert 0 < error(actual[1], expected[1]) < 2 * eps
    assert 0 < error(actual[0], expected[0]) < 4 * eps


def test_the_tail_correction_restores_what_the_dropped_columns_have_in_common():
    """Where all dropped columns have one embedding, dX is as good as exact though dW shows what was dropped."""
    p = problem([100, 100], hidden=16, vocab=5000, scale=1.5)
    p["targets"] = p["targets"] % 4
    p["weight"][4:] = p["weight"][4].clone()
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    _, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=0.03)
    assert error(actual[1], expected[1]) > 5e-3
    assert error(actual[0], expected[0]) < 5e-4


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_bfloat16_accumulates_in_float32(filter_eps):
    p = problem([40, 50, 60, 20], hidden=64, vocab=1000, dtype=torch.bfloat16, scale=0.5)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    output, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)
    exact = linear_preference_loss(**in_float64(p), backend="eager")
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5)
    assert [a.dtype for a in actual] == [torch.bfloat16] * 2
    # Nothing but the rounding of the result: half a bfloat16 ulp, 2^-9, at most.
    assert all(error(a, e) < 2**-8 for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
@pytest.mark.parametrize("names", [("hidden",), ("weight",), ("hidden", "bias"), ("bias",)])
def test_only_what_is_not_frozen_gets_a_gradient(names, filter_eps):
    p = problem([20, 30]) | {"bias": torch.linspace(-1, 1, 300)}
    _, expected = gradients(linear_preference_loss, in_float64(p), names, backend="eager")
    _, actual = gradients(linear_preference_loss, p, names, backend="cpu", filter_eps=filter_eps)
    tolerance = 2e-5 if filter_eps == 0 else 6e-3
    assert all(error(a, e) < tolerance for a, e in zip(actual, expected, strict=True))


def test_without_gradients_none_are_made():
    p = problem([20, 30])
    output = linear_preference_loss(**p, backend="cpu")
    assert not output.loss.requires_grad
    p["hidden"].requires_grad_()
    with torch.no_grad():
        assert not linear_preference_loss(**p, backend="cpu").loss.requires_grad


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_nothing_in_nothing_out(filter_eps):
    for lengths in ([], [0, 0]):
        p = problem(lengths)
        output, (d_hidden, d_weight) = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)
        assert output.sequence_logps.shape == (len(lengths),)
        assert d_hidden.shape == (0, 16) and d_weight.abs().sum() == 0
    logps = linear_logprobs(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0, dtype=torch.int64), backend="cpu")
    assert logps.shape == (0,)


def test_strided_inputs():
    p = problem([20, 30])
    strided = dict(p)
    strided["hidden"] = torch.randn(50, 32)[:, ::2].copy_(p["hidden"])
    strided["weight"] = p["weight"].T.contiguous().T
    strided["targets"] = torch.stack([p["targets"], p["targets"] * 0], dim=1)[:, 0]
    assert not strided["hidden"].is_contiguous() and not strided["weight"].is_contiguous()
    for filter_eps in (0.0, 1e-3):
        plain = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)[1]
        other = gradients(linear_preference_loss, strided, backend="cpu", filter_eps=filter_eps)[1]
        assert all(error(a, b.double()) < 1e-5 for a, b in zip(other, plain, strict=True))


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_saturated_and_huge(filter_eps):
    """Margins so large that the slope vanishes, and logits so large that exp would overflow."""
    p = problem([20, 30, 20, 30])
    p["reference_logps"] = torch.tensor([-1e6, 0.0, 0.0, -1e6])
    output, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)
    _, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    assert all(error(a, e) < 6e-3 for a, e in zip(actual, expected, strict=True))
    p["reference_logps"] = torch.tensor([-1e6, 0.0, -1e6, 0.0])  # every pair saturated: no gradient at all
    output, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)
    assert output.loss.item() == 0 and all(a.abs().max() == 0 for a in actual)

    p = problem([5, 6], scale=1e4)
    output, actual = gradients(linear_preference_loss, p, backend="cpu", filter_eps=filter_eps)
    exact, expected = gradients(linear_preference_loss, in_float64(p), backend="eager")
    assert torch.allclose(output.sequence_logps.double(), exact.sequence_logps, rtol=1e-5)
    assert all(torch.isfinite(a).all() and error(a, e) < 6e-3 for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("filter_eps", [0.0, "auto"])
def test_forbidden_tokens(filter_eps):
    """A bias of -inf, over whole tiles of the vocabulary too: no mass, no NaN, no gradient."""
    p = problem([20, 30], vocab=700)
    bias = torch.zeros(700)
    bias[256:600] = -torch.inf
    p["targets"] = p["targets"] % 256
    output, (d_hidden, d_weight) = gradients(
        linear_preference_loss, p | {"bias": bias}, backend="cpu", filter_eps=filter_eps
    )
    _, expected = gradients(linear_preference_loss, in_float64(p | {"bias": bias}), backend="eager")
    assert torch.isfinite(output.sequence_logps).all()
    assert d_weight[256:600].abs().max() == 0
    assert error(d_hidden, expected[0]) < 6e-3 and error(d_weight, expected[1]) < 6e-3
    p["targets"][3] = 300
    assert linear_preference_loss(**p, bias=bias, backend="cpu").sequence_logps[0].item() == -math.inf


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"logit_softcap": 3.0, "temperature": 1.5},
        {"bias": torch.linspace(-2, 2, 300)},
    ],
)
def test_logprobs_and_entropy(options):
    p = problem([700], hidden=8)
    arguments = {key: p[key] for key in ("hidden", "weight", "targets")} | options
    coefficients = torch.linspace(-1, 1, 700)

    def weighted(backend, arguments, **more):
        leaves = {key: arguments[key].clone().requires_grad_() for key in ("hidden", "weight")}
        logps, entropy = linear_logprobs(**arguments | leaves, return_entropy=True, backend=backend, **more)
        (logps * coefficients.to(logps)).sum().backward()
        return logps, entropy, *(leaf.grad for leaf in leaves.values())

    expected = weighted("eager", in_float64(arguments))
    actual = weighted("cpu", arguments, filter_eps=0.0)
    assert torch.allclose(actual[0].double(), expected[0], atol=2e-5, rtol=1e-5)
    assert torch.allclose(actual[1].double(), expected[1], atol=2e-5, rtol=1e-5)
    assert not actual[1].requires_grad
    assert error(actual[2], expected[2]) < 2e-5 and error(actual[3], expected[3]) < 2e-5
    filtered = weighted("cpu", arguments)
    assert torch.allclose(filtered[0].double(), expected[0], atol=1e-4, rtol=1e-5)
    assert error(filtered[2], expected[2]) < 6e-3 and error(filtered[3], expected[3]) < 3e-3


@pytest.mark.parametrize("normalization", ["length_normalized", "token_mean", "sum"])
@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_policy_loss(normalization, sampling, beta):
    lengths = [4, 0, 9, 1, 600]
    p = problem(lengths, hidden=8)
    logps = linear_logprobs(p["hidden"], p["weight"], p["targets"], backend="eager")
    noise = torch.randn(len(logps), generator=torch.Generator().manual_seed(1))
    arguments = {key: p[key] for key in ("hidden", "weight", "targets", "cu_seqlens")} | {
        "advantages": torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]),
        "valid": torch.tensor([True, True, True, False, True]),
        "sampling_logps": logps + 0.7 * noise if sampling else None,
        "reference_logps": logps - 0.3 * noise if beta else None,
    }
    compare(linear_policy_loss, arguments, 2e-5, normalization=normalization, beta=beta, importance_cap=1.5)


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


def test_tied_embeddings_add_up():
    """The head's weight is the embedding too: both contributions reach it."""
    p = problem([6, 7])
    weight = p["weight"].clone().requires_grad_()
    inputs = torch.arange(13)

    def loss(weight, **options):
        return linear_preference_loss(**p | {"hidden": torch.tanh(weight[inputs]), "weight": weight}, **options).loss

    (actual,) = torch.autograd.grad(loss(weight, backend="cpu", filter_eps=0.0), weight)
    p = in_float64(p)
    weight = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(loss(weight, backend="eager"), weight)
    assert error(actual, expected) < 2e-5


def test_scaled_repeated_and_accumulated_backward():
    p = problem([6, 7])
    hidden = p["hidden"].clone().requires_grad_()
    loss = linear_preference_loss(**p | {"hidden": hidden}, backend="cpu").loss
    (once,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (scaled,) = torch.autograd.grad(3 * loss, hidden, retain_graph=True)
    assert torch.allclose(scaled, 3 * once)
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.allclose(hidden.grad, 2 * once)


def test_buffers_are_reused_and_given_back():
    """A weight of 8 MiB, so that its gradient comes from the pool: reused, zeroed again, and never shared."""
    p = problem([6, 7], hidden=64, vocab=32768)

    def weight_gradient() -> torch.Tensor:
        return gradients(linear_preference_loss, p, backend="cpu", filter_eps=0.0)[1][1]

    kept = weight_gradient()
    expected, addresses = kept.clone(), set()
    for _ in range(4):
        again = weight_gradient()
        assert torch.equal(again, expected)
        addresses.add(again.data_ptr())
    assert len(addresses) < 4 and kept.data_ptr() not in addresses
    fused.release_buffers()
    assert torch.equal(kept, expected)  # what is in use stays
    assert torch.equal(weight_gradient(), expected)


def test_deterministic():
    p = problem([60, 70, 30, 20], vocab=3000)
    runs = [gradients(linear_preference_loss, p, backend="cpu")[1] for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_several_threads_agree_with_one():
    p = problem([60, 70, 30, 20], vocab=3000)
    one = gradients(linear_preference_loss, p, backend="cpu")[1]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three = gradients(linear_preference_loss, p, backend="cpu")[1]
    finally:
        torch.set_num_threads(before)
    assert all(error(a, b.double()) < 1e-5 for a, b in zip(three, one, strict=True))


def test_works_under_torch_compile_as_one_graph():
    p = problem([6, 7], vocab=300)
    leaves = {name: p[name].clone().requires_grad_() for name in ("hidden", "weight")}

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(hidden, weight, targets, cu_seqlens, reference_logps, advantages):
        hidden = torch.sin(hidden)
        preference = linear_preference_loss(hidden, weight, targets, cu_seqlens, reference_logps)
        policy = linear_policy_loss(hidden, weight, targets, cu_seqlens, advantages)
        return 2 * preference.loss + policy.loss + linear_logprobs(hidden, weight, targets).mean()

    inputs = (*leaves.values(), p["targets"], p["cu_seqlens"], p["reference_logps"], torch.tensor([1.0, -1.0]))
    compiled = step(*inputs)
    compiled.backward()
    grads = [leaf.grad.clone() for leaf in leaves.values()]
    for leaf in leaves.values():
        leaf.grad = None
    plain = step._torchdynamo_orig_callable(*inputs)
    plain.backward()
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-6)
    assert all(torch.allclose(g, leaf.grad, atol=1e-6) for g, leaf in zip(grads, leaves.values(), strict=True))


def test_operators_keep_their_promises_to_pytorch():
    """torch's own checks of schemas, fake kernels and autograd registration."""
    p = problem([6, 7], vocab=40)
    hidden, weight = p["hidden"].requires_grad_(), p["weight"].requires_grad_()
    common = (hidden, weight, None, p["targets"])
    torch.library.opcheck(torch.ops.advgame.logprobs, (*common, 0.0, 1.0, True, 0.0))
    torch.library.opcheck(
        torch.ops.advgame.preference,
        (
            *common,
            p["cu_seqlens"],
            p["reference_logps"],
            "dpo",
            0.1,
            False,
            0.0,
            0.0,
            0.0,
            True,
            0.0,
            True,
            True,
            False,
        ),
    )
    torch.library.opcheck(
        torch.ops.advgame.policy,
        (
            *common,
            p["cu_seqlens"],
            torch.ones(2),
            None,
            None,
            None,
            0.0,
            2.0,
            "sum",
            0.0,
            False,
            0.0,
            True,
            True,
            False,
        ),
    )


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"targets": torch.tensor([0, 1, 2, 300])}, "targets"),
        ({"targets": torch.tensor([0, -1, 2, 3])}, "targets"),
        ({"cu_seqlens": torch.tensor([0, 5, 4], dtype=torch.int32)}, "cu_seqlens"),
        ({"cu_seqlens": torch.tensor([0, 2, 3], dtype=torch.int32)}, "cu_seqlens"),
        ({"filter_eps": -1.0}, "filter_eps"),
        ({"filter_eps": 1.0}, "filter_eps"),
        ({"filter_eps": "most"}, "filter_eps"),
    ],
)
def test_backends_refuse_alike(backend, change, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        linear_preference_loss(**problem([2, 2]) | change, backend=backend)


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(ValueError, match="backend='cpu' takes float32 and bfloat16"):
        linear_preference_loss(**in_float64(problem([2, 2])), backend="cpu")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"advantages": torch.zeros(3)}, "advantages"),
        ({"advantages": torch.zeros(2, dtype=torch.int64)}, "advantages"),
        ({"sampling_logps": torch.zeros(2)}, "sampling_logps"),
        ({"reference_logps": torch.zeros(3)}, "reference_logps"),
        ({"valid": torch.ones(2)}, "valid"),
        ({"normalization": "mean"}, "normalization"),
        ({"beta": -1.0}, "beta"),
        ({"importance_cap": 0.0}, "importance_cap"),
        ({"cu_seqlens": torch.tensor([0, 2, 3], dtype=torch.int32)}, "cu_seqlens"),
    ],
)
def test_policy_loss_names_bad_arguments(change, named):
    p = problem([2, 2])
    arguments = {key: p[key] for key in ("hidden", "weight", "targets", "cu_seqlens")} | {"advantages": torch.ones(2)}
    with pytest.raises(ValueError, match=f"^{named}"):
        linear_policy_loss(**arguments | change)
