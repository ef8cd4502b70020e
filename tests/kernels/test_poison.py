"""What is not finite goes in: something that is not finite comes out, or a ValueError, the same on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import device_of, problem

from advgame.kernels import (
    linear_logprobs,
    linear_policy_loss,
    linear_preference_loss,
    prefix_tree,
    sample_top_p,
    shared_prefix_attention,
)
from advgame.kernels.extension import BUILT

pytestmark = [
    pytest.mark.skipif(not BUILT, reason="C++ operators not built"),
    pytest.mark.filterwarnings("ignore"),  # NumPy's, in the interpreter
]

POISONS = {
    "nan": math.nan,
    "-nan": math.nan,
    "nan of a gpu": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "3e38": 3e38,  # its products overflow
    "subnormal": 1e-40,
}
BITS = {"-nan": -0x400000, "nan of a gpu": 0x7FFFFFFF}
"""As x86 makes it of inf - inf, and as NVIDIA's cards make every NaN: rounded like a number, it would become -0."""


def poisoned(tensor: torch.Tensor, poison: str, place: int = 3) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[place] = POISONS[poison]
    if poison in BITS:
        tensor.view(torch.int32).view(-1)[place] = BITS[poison]
    return tensor


def logprobs(leaves, p, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logps, entropy = linear_logprobs(**leaves, targets=p["targets"], return_entropy=True, **options)
    return logps.sum(), [logps, entropy]


def preference(leaves, p, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    output = linear_preference_loss(
        **leaves, targets=p["targets"], cu_seqlens=p["cu_seqlens"], reference_logps=p["reference_logps"],
        return_entropy=True, **options,
    )  # fmt: skip
    return output.loss, [output.sequence_logps, output.chosen_rewards, output.rejected_rewards, output.entropy]


def policy(leaves, p, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    names = "targets", "cu_seqlens", "advantages", "sampling_logps", "token_logps"
    arguments = {name.replace("token", "reference"): p[name] for name in names}
    output = linear_policy_loss(**leaves, **arguments, beta=0.1, return_entropy=True, **options)
    return output.loss, [output.logps, output.entropy]


def outcome(function, p: dict, backend: str, **options) -> dict[str, list[bool]]:
    """What is finite: the loss, each value, each token's gradient, and the gradients of weight and bias."""
    with device_of(backend):
        on_device = {name: tensor.to(device_of(backend)) for name, tensor in p.items()}
        leaves = {name: on_device[name].clone().requires_grad_() for name in ("hidden", "weight", "bias")}
        loss, values = function(leaves, on_device, backend=backend, **options)
        loss.backward()
    gradients = [leaf.grad for leaf in leaves.values()]
    return {
        "loss": [bool(loss.isfinite())],
        "values": [finite for value in values for finite in value.isfinite().tolist()],
        "hidden": gradients[0].isfinite().all(1).tolist(),
        "weight": [bool(gradient.isfinite().all()) for gradient in gradients[1:]],
    }


CASES = [
    (function, name)
    for function, more in (
        (logprobs, ()),
        (preference, ("reference_logps",)),
        (policy, ("advantages", "sampling_logps", "token_logps")),
    )
    for name in ("hidden", "weight", "bias", *more)
]


@pytest.mark.parametrize(
    ("backend", "poison"), [("cpu", poison) for poison in POISONS] + [("triton", "nan"), ("triton", "inf")]
)  # the interpreter is slow
@pytest.mark.parametrize(("function", "name"), CASES, ids=lambda case: getattr(case, "__name__", case))
@pytest.mark.parametrize("options", [{"filter_eps": 0.0}, {}, {"logit_softcap": 3.0}], ids=["exact", "auto", "capped"])
def test_losses(function, name, poison, options, backend):
    p = problem([3, 4, 2, 3], hidden=8, vocab=70) | {
        "bias": torch.zeros(70),
        "advantages": torch.tensor([1.0, -1.0, 0.5, 2.0]),
        "sampling_logps": torch.full((12,), -4.0),
        "token_logps": torch.full((12,), -4.2),
    }
    if poison == "3e38" and name not in ("hidden", "weight", "bias"):
        pytest.skip("nothing overflows, or the order of a sum decides")
    p[name] = poisoned(p[name], poison)
    actual, expected = outcome(function, p, backend, **options), outcome(function, p, "eager", **options)
    if name == "weight" and poison in ("inf", "-inf"):  # AMX: an infinity is not the sum of its bfloat16 parts, but NaN
        assert all(e or not a for key in actual for a, e in zip(actual[key], expected[key], strict=True))
        return
    assert actual == expected
    finite = all(all(flags) for flags in expected.values())
    assert not finite or "nan" not in poison
    assert finite or poison != "subnormal"


@settings(max_examples=40)
@given(
    scale=st.sampled_from([1e-40, 1e-30, 1e-10, 1e10, 1e18, 1e30, 1e38]),
    name=st.sampled_from(["hidden", "weight", "advantages"]),
    seed=st.integers(0, 99),
)
def test_scales_at_the_ends_of_float32(scale, name, seed):
    """Sums overflow or vanish in an order of their own on each backend, but no backend reports a loss that another
    does not have, and the filter neither drops a gradient because its square vanishes nor because it overflows."""
    p = problem([9, 7, 8, 12], hidden=8, vocab=90, seed=seed) | {"advantages": torch.tensor([1.0, -1.0, 0.5, 2.0])}
    p[name] = p[name] * scale
    exact = policy_gradients(p, "eager")
    for options in ({"filter_eps": 0.0}, {}):
        loss, *actual = policy_gradients(p, "cpu", **options)
        assert bool(loss.isfinite()) == bool(exact[0].isfinite())
        if all(tensor.isfinite().all() for tensor in exact):
            for a, e in zip(actual, exact[1:], strict=True):
                assert (a.double() - e.double()).norm() <= 1e-2 * e.double().norm() + torch.finfo(torch.float32).tiny


def policy_gradients(p: dict, backend: str, **options) -> list[torch.Tensor]:
    leaves = [p[name].clone().requires_grad_() for name in ("hidden", "weight")]
    loss = linear_policy_loss(
        *leaves, p["targets"], p["cu_seqlens"], p["advantages"], backend=backend, **options
    ).loss  # fmt: skip
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def test_entropy_of_forbidden_tokens():
    """A bias of -inf has no gradient, with entropies as without them."""
    p = problem([3, 4], hidden=8, vocab=70)
    p["bias"] = torch.zeros(70).index_fill_(0, torch.tensor([3, 69]), -math.inf)
    p["targets"] = p["targets"] % 3
    flags = outcome(preference, p, "cpu")
    assert flags == outcome(preference, p, "eager") and all(all(finite) for finite in flags.values())


@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("poison", ["nan", "-nan", "nan of a gpu", "inf"])
def test_logits_that_have_no_distribution_are_refused(poison, backend, top_p, temperature):
    uniforms = torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^logits: "):
        sample_top_p(
            poisoned(torch.zeros(2, 9), poison), uniforms, temperature=temperature, top_p=top_p, backend=backend
        )


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("uniform", [math.nan, math.inf, -math.inf, -1e-12, 1.0, 1.5])
def test_uniforms_outside_their_range_are_refused(uniform, backend, top_p):
    uniforms = torch.tensor([0.5, uniform], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^uniforms: expected numbers in \[0, 1\), got"):
        sample_top_p(torch.zeros(2, 9), uniforms, top_p=top_p, backend=backend)


@pytest.mark.parametrize("poison", ["nan", "-nan", "nan of a gpu", "inf", "-inf"])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_attention(name, poison):
    """Lost are the tokens that see the poison, none of which comes out as 0, and none that is not in their segment."""
    layout = prefix_tree([5, 4, 3], [None, 0, 0], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(12, 2, 8, generator=generator) for name in ("query", "key", "value")}
    place = 6  # the second token of the first child, whose own later tokens are 7 and 8
    tensors[name] = poisoned(tensors[name], poison, place * 16 + 3)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    out = shared_prefix_attention(*leaves, layout)
    finite = out.isfinite().all(-1).all(-1).tolist()
    if name == "key" and poison in ("inf", "-inf"):  # a score of -inf is a key that is not seen
        assert not all(finite[6:9]) and all(finite[:6] + finite[9:])
    else:
        lost = {token for token, ok in enumerate(finite) if not ok}
        assert lost == {6} if name == "query" else {6, 7, 8} <= lost <= {5, 6, 7, 8}
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert not all(gradient.isfinite().all() for gradient in gradients)


def test_a_first_token_that_is_lost_is_not_zero():
    """It sees itself alone: not one of its scores is a number."""
    query = torch.zeros(3, 2, 8)
    key = poisoned(query, "nan", 0)
    out = shared_prefix_attention(query, key, torch.ones(3, 2, 8), prefix_tree([3], [None], torch.device("cpu")))
    assert out[:, 0].isnan().all() and out[:, 1].isfinite().all()
