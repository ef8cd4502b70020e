"""The operators of csrc/, called directly with arguments that would lead outside their tensors: all refused by name."""

import math

import pytest
import torch
from torch.autograd import forward_ad

from advgame.kernels.extension import BUILT

pytestmark = pytest.mark.skipif(not BUILT, reason="C++ operators not built")

N, PADDED, H, V, TILES = 5, 32, 4, 1030, 2


def forward(**change) -> tuple[torch.Tensor, ...]:
    arguments = {
        "hidden": torch.ones(N, H),
        "weight": torch.ones(V, H),
        "bias": torch.zeros(V),
        "targets": torch.arange(N),
        "softcap": 0.0,
        "temperature": 1.0,
        "with_entropy": False,
        "exact": False,
        "probs": torch.zeros(V * PADDED),
    }
    return torch.ops.advgame.head_forward(**arguments | change)


def backward(**change) -> None:
    arguments = {
        "hidden": torch.ones(N, H),
        "weight": torch.ones(V, H),
        "targets": torch.arange(N),
        "coef": torch.ones(N),
        "logps": torch.zeros(N),
        "lse": torch.zeros(N),
        "target_slope": torch.ones(N),
        "mass": torch.zeros(0),
        "tile_max": torch.zeros(TILES, PADDED),
        "probs": torch.zeros(V * PADDED),
        "temperature": 1.0,
        "filter_eps": 1e-3,
        "group_size": 128,
        "grad_hidden": torch.zeros(N, H),
        "grad_weight": torch.zeros(V, H),
        "grad_bias": torch.zeros(V),
    }
    torch.ops.advgame.head_backward(**arguments | change)


def sample(**change) -> tuple[torch.Tensor, ...]:
    arguments = {
        "logits": torch.zeros(3, 7),
        "uniforms": torch.full((3,), 0.5, dtype=torch.float64),
        "temperature": 1.0,
        "top_p": 0.9,
    }
    return torch.ops.advgame.sample_logits(**arguments | change)


HEAD = [
    ("hidden", torch.ones(N)),
    ("hidden", torch.ones(N, H, dtype=torch.float16)),
    ("weight", torch.ones(V, H + 1)),
    ("weight", torch.ones(V)),
    ("weight", torch.ones(V, H, dtype=torch.bfloat16)),
    ("weight", torch.ones(0, H)),
    ("targets", torch.arange(N + 1)),
    ("targets", torch.arange(N, dtype=torch.int32)),
    ("targets", torch.full((N,), V)),
    ("targets", torch.full((N,), -1)),
    ("targets", torch.full((N,), 2**62)),
    ("probs", torch.zeros(V * PADDED - 1)),
    ("probs", torch.zeros(2 * V * PADDED)[::2]),
    ("probs", torch.zeros(V * PADDED, dtype=torch.bfloat16)),
]
FORWARD = [*HEAD, ("bias", torch.zeros(V - 1)), ("bias", torch.zeros(1)), ("bias", torch.zeros(V, 1))]
BACKWARD = [
    *HEAD,
    ("coef", torch.ones(N + 1)),
    ("coef", torch.ones(N).double()),
    ("logps", torch.zeros(1)),
    ("lse", torch.zeros(N - 1)),
    ("target_slope", torch.ones(1)),
    ("target_slope", torch.ones(N).double()),
    ("mass", torch.zeros(N - 1)),
    ("tile_max", torch.zeros(1, PADDED)),
    ("tile_max", torch.zeros(TILES, N)),
    ("filter_eps", -1.0),
    ("filter_eps", math.nan),
    ("group_size", 0),
    ("group_size", -1),
    ("grad_hidden", torch.zeros(N - 1, H)),
    ("grad_hidden", torch.zeros(N, H, dtype=torch.bfloat16)),
    ("grad_weight", torch.zeros(V - 1, H)),
    ("grad_weight", torch.zeros(H, V).T),
    ("grad_bias", torch.zeros(V - 1)),
    ("grad_bias", torch.zeros(2 * V)[::2]),
]
SAMPLE = [
    ("logits", torch.ones(3)),
    ("logits", torch.ones(3, 7).double()),
    ("logits", torch.ones(7, 3).T),
    ("logits", torch.ones(3, 0)),
    *(("logits", torch.full((3, 7), value)) for value in (math.nan, math.inf, -math.inf)),
    ("uniforms", torch.zeros(2).double()),
    ("uniforms", torch.zeros(3)),
    *(("uniforms", torch.full((3,), u, dtype=torch.float64)) for u in (-1e-9, -math.inf, math.nan, 1.0, math.inf)),
    *(("temperature", value) for value in (-1.0, math.nan, math.inf)),
    ("top_p", 0.0),
    ("top_p", math.nan),
    ("top_p", 1.5),
]


def test_good_arguments_are_taken():
    assert len(forward()) == 6
    backward()
    assert [result.shape for result in sample()] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [(op, *case) for op, cases in ((forward, FORWARD), (backward, BACKWARD), (sample, SAMPLE)) for case in cases],
)
def test_bad_arguments_are_refused_by_name(operator, name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        operator(**{name: value})


@pytest.mark.parametrize("shape", [[-1, 4], [1 << 40, 1 << 40], [1 << 62]])
def test_impossible_buffers_are_refused(shape):
    with pytest.raises(ValueError, match=r"^shape: "):
        torch.ops.advgame.pooled(shape, False)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_what_is_checked_does_not_depend_on_top_p(top_p):
    with pytest.raises(ValueError, match=r"^logits: "):
        sample(logits=torch.full((3, 7), math.nan), top_p=top_p)


def test_derivatives_are_refused_and_not_zero():
    hidden = torch.ones(N, H)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward AD"):
        forward(hidden=forward_ad.make_dual(hidden, hidden), probs=None)
    with pytest.raises(RuntimeError, match=r"advgame::head_forward is not implemented"):
        forward(hidden=hidden.requires_grad_(), probs=None)[0].sum().backward()
