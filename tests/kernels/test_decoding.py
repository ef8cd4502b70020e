"""Attention of new tokens to a cache of shared pieces: all backends against float64 over the tokens themselves."""

import math
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import device_of

from advgame.kernels import decoding
from advgame.kernels.decoding import BLOCK, blocks_of, empty_cache
from advgame.kernels.extension import BUILT

CPU = torch.device("cpu")
CHECKING = ["eager", pytest.param("cpu", marks=pytest.mark.skipif(not BUILT, reason="C++ operators not built"))]
"""The backends that look at the numbers of their arguments."""
BACKENDS = [*CHECKING, pytest.param("triton", marks=pytest.mark.skipif(not find_spec("triton"), reason="no Triton"))]


def cached_attention(query, keys, values, pieces, *, backend: str, **options):
    """Where the backend runs."""
    tensors = (tensor.to(device_of(backend)) for tensor in (query, keys, values, pieces))
    return decoding.cached_attention(*tensors, backend=backend, **options).cpu()


def cache_tokens(keys, values, key, value, places, *, backend: str) -> None:
    """Where the backend runs."""
    tensors = [tensor.to(device_of(backend)) for tensor in (keys, values, key, value, places)]
    decoding.cache_tokens(*tensors, backend=backend)
    keys.copy_(tensors[0])
    values.copy_(tensors[1])


def random_cache(blocks: int, heads: int, width: int, dtype: torch.dtype, backend: str, seed: int = 0):
    """(keys, values, key [T, heads, width], value): the cache of a layer, and what it was filled with."""
    generator = torch.Generator().manual_seed(seed)
    shape = (blocks * BLOCK, heads, width)
    key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    keys, values = (cache[0] for cache in empty_cache(1, blocks, heads, width, dtype, CPU))
    keys.fill_(torch.nan)
    values.fill_(torch.nan)
    order = torch.randperm(len(key), generator=generator)
    cache_tokens(keys, values, key[order], value[order], order, backend=backend)
    return keys, values, key, value


def expected(query, key, value, pieces, scale):
    """One row at a time, in float64."""
    rows = []
    for q, of_row in zip(query.double(), pieces.tolist(), strict=True):
        tokens = [begin * BLOCK + i for begin, count in of_row for i in range(count)]
        k, v = (t[tokens].double().repeat_interleave(len(q) // t.size(1), 1) for t in (key, value))
        weights = (torch.einsum("hd,thd->ht", q, k) * scale).softmax(-1)
        rows.append(torch.einsum("ht,thd->hd", weights, v))
    return torch.stack(rows)


@pytest.mark.parametrize("backend", CHECKING)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20), st.integers(1, 40)), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (3, 3), (4, 1), (9, 3), (14, 2), (5, 1)]),
    width=st.sampled_from([1, 8, 16, 24, 64, 80, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=st.sampled_from([0.0, 0.125, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_against_float64(backend, lengths, heads, width, dtype, scale, seed):
    """Rows share pieces, and some pieces are empty."""
    check(backend, lengths, heads, width, dtype, scale, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "width", "scale"),
    [((1, 1), 1, 1.0), ((3, 3), 8, 0.125), ((9, 3), 64, 0.125), ((14, 2), 80, 0.125), ((5, 1), 128, 0.0)],
)
def test_triton_against_float64(heads, width, scale, dtype):
    pytest.importorskip("triton")
    check("triton", [(70, 0, 1), (64, 20, 40), (17, 3, 16), (0, 0, 1)], heads, width, dtype, scale, seed=1)


def check(backend, lengths, heads, width, dtype, scale, seed) -> None:
    """lengths: of each row's pieces."""
    blocks = 5 + 3 * len(lengths) + 2
    keys, values, key, value = random_cache(blocks, heads[1], width, dtype, backend, seed)
    table = [[(0, a), (5, b), (7 + 3 * row, c)] for row, (a, b, c) in enumerate(lengths)]
    pieces = torch.tensor(table, dtype=torch.int32)
    query = torch.randn(len(lengths), heads[0], width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    actual = cached_attention(query, keys, values, pieces, scale=scale, backend=backend)
    assert actual.dtype == dtype
    error = (actual.double() - expected(query, key, value, pieces, scale)).abs().max()
    assert error < (2e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_neighbours(backend, dtype):
    keys, values, *_ = random_cache(40, 3, 64, dtype, backend)
    query = torch.randn(12, 9, 64).to(dtype)
    pieces = torch.tensor([[(0, 50), (4 + 3 * row, 5 + row)] for row in range(12)], dtype=torch.int32)
    together = cached_attention(query, keys, values, pieces, backend=backend)
    alone = [cached_attention(query[i : i + 1], keys, values, pieces[i : i + 1], backend=backend) for i in range(12)]
    if backend == "cpu":
        assert torch.equal(together, torch.cat(alone))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(backend, value):
    keys, values, key, _ = random_cache(4, 2, 16, torch.float32, backend)
    pieces = torch.tensor([[(0, 20)], [(2, 20)]], dtype=torch.int32)
    query = torch.randn(2, 2, 16)
    query[1, 0, 3] = value
    out = cached_attention(query, keys, values, pieces, backend=backend)
    assert out[0].isfinite().all() and out[1, 1].isfinite().all()
    assert not out[1, 0].isfinite().any()
    query = torch.randn(2, 2, 16)
    cache_tokens(keys, values, torch.full((1, 2, 16), value), key[:1], torch.tensor([5]), backend=backend)
    out = cached_attention(query, keys, values, pieces, backend=backend)
    assert out[1].isfinite().all() and not out[0].isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_scores_and_what_lies_behind_a_piece(backend):
    """A cache is uninitialised behind its tokens: whatever is there is not read."""
    keys, values, key, value = random_cache(4, 1, 16, torch.float32, backend)
    pieces = torch.tensor([[(1, 17)]], dtype=torch.int32)
    query = torch.zeros(1, 1, 16)
    query[..., 3] = 2.0**20  # one power of two: the scores are exact in float32, in whatever order they are summed
    before = cached_attention(query, keys, values, pieces, backend=backend)
    assert torch.allclose(before.double(), expected(query, key, value, pieces, 0.25), atol=1e-4)
    behind = torch.arange(33, 48)
    junk = torch.full((len(behind), 1, 16), math.nan)
    cache_tokens(keys, values, junk, junk, behind, backend=backend)
    assert torch.equal(cached_attention(query, keys, values, pieces, backend=backend), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend):
    keys, values, *_ = random_cache(4, 1, 16, torch.float32, backend)
    pieces = torch.zeros(0, 2, 2, dtype=torch.int32)
    assert cached_attention(torch.zeros(0, 2, 16), keys, values, pieces, backend=backend).shape == (0, 2, 16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_takes_any_strides(backend):
    keys, values, key, value = random_cache(4, 2, 16, torch.float32, backend)
    query = torch.randn(16, 4, 3).permute(2, 1, 0)
    pieces = torch.tensor([[(0, 20)], [(2, 20)], [(1, 9)]], dtype=torch.int32).repeat(1, 2, 1)[:, ::2]
    out = cached_attention(query, keys, values, pieces, backend=backend)
    assert torch.allclose(out.double(), expected(query, key, value, pieces, 0.25), atol=1e-5)
    places = torch.arange(8)[::2]
    cache_tokens(keys, values, key[:4].transpose(1, 2).contiguous().transpose(1, 2), value[:4], places, backend=backend)
    assert torch.equal(keys[:, 0][:, :, places].permute(2, 0, 1), key[:4])


GOOD = {
    "query": torch.zeros(2, 4, 16),
    "keys": torch.zeros(2, 3, 16, BLOCK),
    "values": torch.zeros(2, 3, BLOCK, 16),
    "pieces": torch.tensor([[(0, 20)], [(2, 16)]], dtype=torch.int32),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"query": torch.zeros(2, 4, 8)}, "query"),
        ({"query": torch.zeros(2, 3, 16)}, "query"),
        ({"query": torch.zeros(2, 4, 16).bfloat16()}, "query"),
        ({"keys": torch.zeros(2, 3, 16, 8)}, "keys"),
        ({"keys": torch.zeros(2, 3, 16, BLOCK).double()}, "keys"),
        ({"values": torch.zeros(2, 3, 16, 8)}, "values"),
        ({"values": torch.zeros(2, 4, BLOCK, 16)}, "values"),
        ({"pieces": torch.zeros(2, 1, 2, dtype=torch.int64)}, "pieces"),
        ({"pieces": torch.zeros(3, 1, 2, dtype=torch.int32)}, "pieces"),
        ({"scale": math.nan}, "scale"),
    ],
)
def test_bad_arguments_are_named(backend, change, named):
    arguments = GOOD | change
    with pytest.raises(ValueError, match=f"^{named}"):
        cached_attention(**arguments, backend=backend)


OUTSIDE = [[(0, 49)], [(2, 17)], [(-1, 2)], [(0, -2)], [(0, 2**31 - 1)], [(2**31 - 1, 2)], [(-(2**31), 2**31 - 1)]]
"""Pieces of three blocks."""


@pytest.mark.parametrize("backend", CHECKING)
@pytest.mark.parametrize("piece", OUTSIDE)
def test_pieces_outside_the_cache_are_named(backend, piece):
    with pytest.raises(ValueError, match=r"^pieces"):
        pieces = torch.tensor([piece, [(0, 1)]], dtype=torch.int32)
        cached_attention(**GOOD | {"pieces": pieces}, backend=backend)


@pytest.mark.parametrize("backend", CHECKING)
@pytest.mark.parametrize("place", [48, -1, 2**62, -(2**62)])
def test_places_outside_the_cache_are_named(backend, place):
    token, places = torch.zeros(2, 2, 16), torch.tensor([0, place])
    with pytest.raises(ValueError, match=r"^places"):
        cache_tokens(GOOD["keys"].clone(), GOOD["values"].clone(), token, token, places, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"key": torch.zeros(3, 2, 16)}, "key"),
        ({"value": torch.zeros(2, 2, 8)}, "value"),
        ({"value": torch.zeros(2, 2, 16).bfloat16()}, "value"),
        ({"places": torch.zeros(2, dtype=torch.int32)}, "places"),
    ],
)
def test_bad_tokens_are_named(backend, change, named):
    good = {"key": torch.zeros(2, 2, 16), "value": torch.zeros(2, 2, 16), "places": torch.tensor([0, 47])}
    with pytest.raises(ValueError, match=f"^{named}"):
        cache_tokens(
            torch.zeros(2, 3, 16, BLOCK), torch.zeros(2, 3, BLOCK, 16), *(good | change).values(), backend=backend
        )


def test_blocks():
    assert [blocks_of(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]
