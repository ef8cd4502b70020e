"""What surrounds the kernels: buffers, threads, torch.compile, torch's checks of operators, refusals."""

import pytest
import torch
from problems import error, gradients, in_float64, problem
from torch.autograd import forward_ad

from advgame.kernels import linear_logprobs, linear_policy_loss, linear_preference_loss
from advgame.kernels.backend import Head
from advgame.kernels.extension import BUILT
from advgame.kernels.formulas import PairTerms
from advgame.kernels.fused import release_buffers
from advgame.kernels.operators import flatten, nest
from advgame.kernels.options import OpOptions, Wanted

pytestmark = pytest.mark.skipif(not BUILT, reason="C++ operators not built")


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
    release_buffers()
    assert torch.equal(kept, expected)  # what is in use stays
    assert torch.equal(weight_gradient(), expected)


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

    def step(hidden, weight, targets, cu_seqlens, reference_logps, advantages):
        hidden = torch.sin(hidden)
        preference = linear_preference_loss(hidden, weight, targets, cu_seqlens, reference_logps)
        policy = linear_policy_loss(hidden, weight, targets, cu_seqlens, advantages)
        return 2 * preference.loss + policy.loss + linear_logprobs(hidden, weight, targets).mean()

    inputs = (*leaves.values(), p["targets"], p["cu_seqlens"], p["reference_logps"], torch.tensor([1.0, -1.0]))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(*inputs)
    compiled.backward()
    grads = [leaf.grad.clone() for leaf in leaves.values()]
    for leaf in leaves.values():
        leaf.grad = None
    plain = step(*inputs)
    plain.backward()
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-6)
    assert all(torch.allclose(g, leaf.grad, atol=1e-6) for g, leaf in zip(grads, leaves.values(), strict=True))


def test_operators_keep_their_promises_to_pytorch():
    """torch's own checks of schemas, fake kernels and autograd registration."""
    p = problem([6, 7], vocab=40)
    hidden, weight = p["hidden"].requires_grad_(), p["weight"].requires_grad_()
    head, targets = Head(weight, None, 0.0, 1.0), p["targets"]
    options, wanted = OpOptions("cpu", True, 0.0, None), Wanted(True, True, False)
    # The losses' gradients are outputs of the operators, which nobody sees, and are scaled in place in the backward
    # pass: a tracing that compares all outputs afterwards objects. test_works_under_torch_compile covers it instead.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.advgame.logprobs, flatten(hidden, head, targets, options))
    terms = PairTerms("dpo", 0.1, False, 0.0, 0.0)
    preference = flatten(hidden, head, targets, options, wanted, p["cu_seqlens"], p["reference_logps"], terms)
    torch.library.opcheck(torch.ops.advgame.preference, preference, test_utils=checks)
    terms = torch.ones(2), None, None, None, 0.0, 2.0, "sum"
    options = OpOptions("cpu", False, 0.0, 7)
    policy = flatten(hidden, head, targets, options, wanted, p["cu_seqlens"], *terms)
    torch.library.opcheck(torch.ops.advgame.policy, policy, test_utils=checks)


def losses(hidden: torch.Tensor, p: dict, backend: str) -> list:
    """Each loss as a function of nothing."""
    weight, targets, cu_seqlens = p["weight"], p["targets"], p["cu_seqlens"]
    return [
        lambda: linear_logprobs(hidden, weight, targets, backend=backend),
        lambda: linear_preference_loss(hidden, weight, targets, cu_seqlens, p["reference_logps"], backend=backend),
        lambda: linear_policy_loss(hidden, weight, targets, cu_seqlens, torch.ones(2), backend=backend),
    ]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("index", range(3))
def test_forward_mode_derivatives_are_refused(backend, index):
    """PyTorch takes those of an operator for 0."""
    p = problem([6, 7])
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="use backend='eager'"):
        losses(forward_ad.make_dual(p["hidden"], p["hidden"]), p, backend)[index]()
    with pytest.raises(NotImplementedError, match="use backend='eager'"):
        torch.func.jvp(lambda hidden: losses(hidden, p, backend)[index](), (p["hidden"],), (p["hidden"],))


def test_forward_mode_derivatives_of_direct_calls_are_refused():
    p = problem([6, 7])
    head, options = Head(p["weight"], None, 0.0, 1.0), OpOptions("cpu", False, 0.0, None)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        hidden = forward_ad.make_dual(p["hidden"], p["hidden"])
        torch.ops.advgame.logprobs(*flatten(hidden, head, p["targets"], options))


def test_records_are_spread_out_and_put_together_again():
    def function(hidden: torch.Tensor, wanted: Wanted, chunk_tokens: int | None, options: OpOptions) -> None: ...

    arguments = [torch.zeros(2), Wanted(True, False, True), None, OpOptions("cpu", True, 0.5, 7)]
    flat = flatten(*arguments)
    assert flat[1:] == [True, False, True, None, "cpu", True, 0.5, 7]
    assert nest(function, flat) == arguments


@pytest.mark.parametrize("backend", ["eager", "cpu", "triton"])
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
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"chunk_tokens": -1}, "chunk_tokens"),
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
        ({"beta": float("inf")}, "beta"),
        ({"importance_cap": 0.0}, "importance_cap"),
        ({"importance_cap": float("nan")}, "importance_cap"),
        ({"cu_seqlens": torch.tensor([0, 2, 3], dtype=torch.int32)}, "cu_seqlens"),
    ],
)
def test_policy_loss_names_bad_arguments(change, named):
    p = problem([2, 2])
    arguments = {key: p[key] for key in ("hidden", "weight", "targets", "cu_seqlens")} | {"advantages": torch.ones(2)}
    with pytest.raises(ValueError, match=f"^{named}"):
        linear_policy_loss(**arguments | change)


@pytest.mark.parametrize("seed", range(8))
def test_logits_that_overflow_give_a_loss_that_is_not_finite(seed):
    """On x86, inf - inf is a NaN with its sign bit set, which once indexed outside a histogram."""
    generator = torch.Generator().manual_seed(seed)
    hidden = (1e38 * torch.randn(40, 32, generator=generator)).requires_grad_()
    weight = torch.randn(500, 32, generator=generator).requires_grad_()
    targets = torch.randint(500, (40,), generator=generator)
    cu_seqlens, reference = torch.tensor([0, 10, 20, 30, 40], dtype=torch.int32), torch.zeros(4)
    loss = linear_preference_loss(hidden, weight, targets, cu_seqlens, reference, backend="cpu").loss
    loss.backward()
    assert not loss.isfinite() and not hidden.grad.isfinite().all()
