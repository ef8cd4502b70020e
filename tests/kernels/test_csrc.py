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


TREE = {"bounds": [0, 3, 5], "parents": [-1, 0], "scale": 0.5}


def attention(**change) -> tuple[torch.Tensor, ...]:
    arguments = {"query": torch.ones(5, 4, 8), "key": torch.ones(5, 2, 8), "value": torch.ones(5, 2, 8)}
    return torch.ops.advgame.forest_attention(**arguments | TREE | change)


def attention_backward(**change) -> tuple[torch.Tensor, ...]:
    arguments = {
        "grad_out": torch.ones(5, 4, 8),
        "query": torch.ones(5, 4, 8),
        "key": torch.ones(5, 2, 8),
        "value": torch.ones(5, 2, 8),
        "out": torch.ones(5, 4, 8),
        "lse": torch.zeros(4, 5),
    }
    return torch.ops.advgame.forest_attention_backward(**arguments | TREE | change)


def norm(**change) -> tuple[torch.Tensor, ...]:
    arguments = {"x": torch.ones(3, 8), "weight": torch.ones(8), "eps": 1e-5, "dtype": torch.float32}
    return torch.ops.advgame.rms_norm(**arguments | change)


def norm_backward(**change) -> tuple[torch.Tensor, ...]:
    arguments = {"grad": torch.ones(3, 8), "x": torch.ones(3, 8), "weight": torch.ones(8), "inverse": torch.ones(3)}
    return torch.ops.advgame.rms_norm_backward(**arguments | change)


def gate(**change) -> torch.Tensor:
    return torch.ops.advgame.silu_gate(**{"gate": torch.ones(3, 8), "up": torch.ones(3, 8)} | change)


def gate_backward(**change) -> tuple[torch.Tensor, ...]:
    arguments = {"grad": torch.ones(3, 8), "gate": torch.ones(3, 8), "up": torch.ones(3, 8)}
    return torch.ops.advgame.silu_gate_backward(**arguments | change)


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
    assert [result.shape for result in attention()] == [(5, 4, 8), (4, 5)]
    assert [result.shape for result in attention_backward()] == [(5, 4, 8), (5, 2, 8), (5, 2, 8)]
    assert [result.shape for result in norm()] == [(3, 8), (3,)]
    assert [result.shape for result in norm_backward()] == [(3, 8), (8,)]
    assert gate().shape == (3, 8) and [result.shape for result in gate_backward()] == [(3, 8), (3, 8)]


WIDE = torch.ones(5, 4, 8, dtype=torch.float64)
REFUSED = {
    forward: FORWARD,
    backward: BACKWARD,
    sample: SAMPLE,
    attention: [
        ("query", torch.ones(5, 8)),
        ("query", torch.ones(5, 4, 8, dtype=torch.long)),
        ("key", torch.ones(4, 2, 8)),
        ("key", torch.ones(5, 3, 8)),
        ("key", torch.ones(5, 0, 8)),
        ("value", torch.ones(5, 2, 7)),
        ("value", torch.ones(5, 2, 8, dtype=torch.float64)),
        ("bounds", [0, 3]),
        ("bounds", [0, 3, 6]),
        ("bounds", [1, 3, 5]),
        ("bounds", [0, 6, 5]),
        ("parents", [-1, 1]),
        ("parents", [-2, 0]),
    ],
    attention_backward: [
        ("grad_out", torch.ones(5, 4, 7)),
        ("grad_out", WIDE),
        ("out", torch.ones(4, 4, 8)),
        ("out", WIDE),
        ("lse", torch.zeros(5, 4)),
        ("lse", torch.zeros(5, 4).T),
        ("bounds", [0, 7, 5]),
    ],
    norm: [
        ("x", torch.ones(8)),
        ("x", torch.ones(8, 3).T),
        ("x", torch.ones(3, 8, dtype=torch.float16)),
        ("weight", torch.ones(7)),
        ("weight", torch.ones(16)[::2]),
        ("weight", torch.ones(8, dtype=torch.bfloat16)),
        ("dtype", torch.float16),
    ],
    norm_backward: [
        ("grad", torch.ones(3, 7)),
        ("grad", torch.ones(8, 3).T),
        ("x", torch.ones(8, 3).T),
        ("weight", torch.ones(7)),
        ("inverse", torch.ones(2)),
        ("inverse", torch.ones(6)[::2]),
    ],
    gate: [
        ("gate", torch.ones(8)),
        ("gate", torch.ones(3, 8, dtype=torch.float64)),
        ("up", torch.ones(3, 7)),
        ("up", torch.ones(8, 3).T),
        ("up", torch.ones(3, 8, dtype=torch.bfloat16)),
    ],
    gate_backward: [("grad", torch.ones(3, 7)), ("grad", torch.ones(8, 3).T), ("up", torch.ones(2, 8))],
}


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [(operator, *case) for operator, cases in REFUSED.items() for case in cases],
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
