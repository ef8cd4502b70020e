"""A head whose rows are spread over the ranks of a process group gives what the whole head gives in one process."""

import pytest
import sharded
import torch
from problems import error
from ranks import on_ranks
from sharded import BROKEN, CASES, CUTS, FILTER_EPS, REFUSED, VOCAB

from advgame.kernels.extension import BUILT

needs_operators = pytest.mark.skipif(not BUILT, reason="C++ operators not built")
TOLERANCES = {"eager": 1e-13, "cpu": 2e-5, "triton": 2e-5}
RUNS = [(ranks, backend) for ranks in CUTS for backend in ("eager", "cpu")]
INTERPRETED = ("dpo", "soft-capped, filtered", "temperature", "nothing", "forbidden ranks, logprobs, filtered")
"""What Triton's interpreter is given: it takes seconds a case."""


@pytest.fixture(scope="module")
def of_ranks():
    """(number of ranks, backend) -> what each rank finds of the cases."""
    known = {}

    def find(ranks: int, backend: str) -> list[dict]:
        if (ranks, backend) not in known:
            every = CASES | BROKEN
            if backend == "triton":
                backends, cases = ["triton"], {name: every[name] for name in INTERPRETED}
            else:
                backends, cases = ["eager", *["cpu"] * BUILT], every
            known.update(
                dict.fromkeys(((ranks, b) for b in backends), on_ranks(ranks, sharded.shares, cases, backends))
            )
        return known[ranks, backend]

    return find


def runs(*names: str):
    """Cases by number of ranks and backend, Triton's among them."""
    of_cpus = [
        pytest.param(name, *run, marks=needs_operators if run[1] == "cpu" else ()) for name in names for run in RUNS
    ]
    interpreted = [pytest.param(name, 2, "triton") for name in names if name in (*INTERPRETED, "peaked")]
    return pytest.mark.parametrize(("name", "ranks", "backend"), of_cpus + interpreted)


def put_together(found: list[dict], name: str) -> torch.Tensor:
    """One of the results, of all ranks: the gradients of the rows one below the other."""
    parts = [of_rank[name] for of_rank in found]
    if name in ("weight", "bias", "exact", "filtered"):
        return torch.cat(parts)
    assert all(torch.equal(part.nan_to_num(), parts[0].nan_to_num()) for part in parts), f"{name} differs by rank"
    return parts[0]


@runs(*CASES)
def test_equals_the_whole_head_in_float64(of_ranks, name, ranks, backend):
    found = [of_rank[name, backend] for of_rank in of_ranks(ranks, backend)]
    case, expected = CASES[name], sharded.whole(CASES[name])
    gradients = TOLERANCES[backend]
    if backend != "eager" and "filter_eps" in case.options:
        gradients = 5e-3
    if backend != "eager" and case.dtype == torch.bfloat16:
        gradients = 5e-3  # they are rounded to it
    assert found[0].keys() == expected.keys()
    for key, value in expected.items():
        tolerance = gradients if key in case.leaves else TOLERANCES[backend]
        assert error(put_together(found, key).double(), value) < tolerance, key


@runs(*BROKEN)
def test_breaks_where_the_whole_head_does(of_ranks, name, ranks, backend):
    """And is close to it where that has numbers, by the same backend: float32 has its limits."""
    found = [of_rank[name, backend] for of_rank in of_ranks(ranks, backend)]
    for key, value in sharded.whole(BROKEN[name], backend).items():
        actual, expected = put_together(found, key).double(), value.double()
        assert torch.equal(actual.isfinite(), expected.isfinite()), key
        scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
        tolerance = 5e-3 if "filter_eps" in BROKEN[name].options and backend != "eager" else 2e-5
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


@runs("peaked")
def test_the_filter_keeps_its_bound_on_every_rank(of_ranks, name, ranks, backend):
    found = [of_rank[name, backend] for of_rank in of_ranks(ranks, backend)]
    p = sharded.peaked()
    probs = (p["hidden"] @ p["weight"].T).double().softmax(-1)
    whole = (torch.nn.functional.one_hot(p["targets"], VOCAB) - probs).T
    assert error(put_together(found, "exact"), whole) < 1e-5
    errors = [error(of_rank["filtered"], of_rank["exact"].double()) for of_rank in found]
    assert max(errors) <= FILTER_EPS
    assert backend == "eager" or max(errors) > FILTER_EPS / 10
    assert error(put_together(found, "filtered"), whole) <= FILTER_EPS


def test_gradcheck():
    assert on_ranks(2, sharded.gradcheck) == [[True] * 3] * 2


@needs_operators
def test_all_ranks_refuse_what_one_refuses():
    errors = on_ranks(3, sharded.refusals)
    assert errors[0] == errors[1] == errors[2]
    for begin, (rank, _) in REFUSED.items():
        assert errors[0][begin].startswith(begin)
        if "must be the same" not in begin and rank is not None:
            assert errors[0][begin].endswith(f"(on rank {rank} of the group)")


@needs_operators
def test_a_group_of_some_processes():
    first, outsider, last = on_ranks(3, sharded.in_a_subgroup)
    assert first == last == pytest.approx(sharded.whole(CASES["dpo"])["loss"].item(), rel=1e-5)
    assert outsider.startswith("group: expected a ProcessGroup that this process belongs to")
