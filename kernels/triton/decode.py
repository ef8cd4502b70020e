"""Attention of new tokens to a key-value cache, and the filling of it; see kernels/decoding.py.

A program has one sequence and one key head: it reads each of the head's cached tokens once, for all query heads that
share them.
"""
# mypy: disable-error-code="import-untyped"

import triton
import triton.language as tl
from torch import Tensor

from advgame.kernels.triton import launch
from advgame.kernels.triton.blocks import product


@triton.jit
def cache_kernel(
    keys,  # [Hkv, blocks, D, BLOCK]
    values,  # [Hkv, blocks, BLOCK, D]
    key,  # [T, Hkv, D]
    value,  # [T, Hkv, D]
    places,  # [T] int64; those outside the cache are left out
    blocks,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    place = tl.load(places + token)
    real = d < WIDTH
    source = (token * tl.num_programs(1) + head) * WIDTH + d
    if (place >= 0) & (place < blocks * BLOCK):
        block = (head * blocks + place // BLOCK) * (WIDTH * BLOCK)
        offset = place % BLOCK
        tl.store(keys + block + d * BLOCK + offset, tl.load(key + source, mask=real, other=0.0), mask=real)
        tl.store(values + block + offset * WIDTH + d, tl.load(value + source, mask=real, other=0.0), mask=real)


@triton.jit
def attention_kernel(
    query,  # [R, Hkv * GROUP, D]
    keys,  # [Hkv, blocks, D, BLOCK]
    values,  # [Hkv, blocks, BLOCK, D]
    pieces,  # [R, P, 2] int32; what is outside the cache is not read
    output,  # [R, Hkv * GROUP, D] out
    blocks,
    scale,
    PIECES: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,  # GROUP, rounded up to what a product takes
    BLOCK_D: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    g, d = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    place = ((row * tl.num_programs(1) + head) * GROUP + g[:, None]) * WIDTH + d[None, :]
    real = (g < GROUP)[:, None] & (d < WIDTH)[None, :]
    q = tl.load(query + place, mask=real, other=0.0)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for piece in tl.static_range(PIECES):
        begin = tl.load(pieces + (row * PIECES + piece) * 2)
        count = tl.load(pieces + (row * PIECES + piece) * 2 + 1)
        count = tl.where((begin >= 0) & (begin < blocks), tl.minimum(count, (blocks - begin) * BLOCK), 0)
        first = (head * blocks + begin) * (WIDTH * BLOCK)
        for offset in range(0, count, TOKENS):
            t = offset + tl.arange(0, TOKENS)
            shown = t < count
            k_place = first + (t // BLOCK * (WIDTH * BLOCK) + t % BLOCK)[None, :] + d[:, None] * BLOCK
            k = tl.load(keys + k_place, mask=(d < WIDTH)[:, None] & shown[None, :], other=0.0)
            scores = product(q, k, tl.zeros([ROWS, TOKENS], tl.float32), PRECISION) * scale
            scores = tl.where(shown[None, :], scores, float("-inf"))
            new = tl.maximum(largest, tl.max(scores, 1))
            shift = tl.where(new == float("-inf"), 0.0, new)
            weights = tl.exp(scores - shift[:, None])
            kept = tl.exp(largest - shift)
            total = total * kept + tl.sum(weights, 1)
            v_place = first + t[:, None] * WIDTH + d[None, :]
            v = tl.load(values + v_place, mask=shown[:, None] & (d < WIDTH)[None, :], other=0.0)
            mixed = product(weights.to(v.dtype), v, mixed * kept[:, None], PRECISION)
            largest = new
    tl.store(output + place, (mixed / total[:, None]).to(output.dtype.element_ty), mask=real)


def cache_tokens(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, places: Tensor) -> None:
    """See decoding.cache_tokens."""
    heads, blocks, width, block = keys.shape
    if len(places):
        cache_kernel[(len(places), heads)](
            keys, values, key.contiguous(), value.contiguous(), places.contiguous(), blocks,
            WIDTH=width, BLOCK=block, BLOCK_D=max(16, triton.next_power_of_2(width)), **launch.CACHE,
        )  # fmt: skip


def cached_attention(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> Tensor:
    """See decoding.cached_attention."""
    heads, blocks, width, block = keys.shape
    query, pieces, output = query.contiguous(), pieces.contiguous(), query.new_empty(query.shape)
    if len(query):
        attention_kernel[(len(query), heads)](
            query, keys, values, pieces, output, blocks, scale, PIECES=pieces.size(1), GROUP=query.size(1) // heads,
            WIDTH=width, BLOCK=block, ROWS=max(16, triton.next_power_of_2(query.size(1) // heads)),
            BLOCK_D=max(16, triton.next_power_of_2(width)), PRECISION=launch.precision(query),
            **launch.DECODE[query.element_size()],
        )  # fmt: skip
    return output
