"""Which vocabulary columns the backward pass keeps, decided on the device, which the host does not wait for.

With c_t = dloss/dlogp_t, a column's energy in a group of tokens is sum_t (c_t p_tv)^2. The columns of least energy are
dropped, for as long as the energy dropped from all groups together stays below filter_eps^2 ||dL||^2.
"""
# mypy: disable-error-code="import-untyped"

import triton
import triton.language as tl

LEVELS = 128
"""Thresholds that are tried, a sixth of an octave apart. The highest is the whole budget."""


@triton.jit
def energy_kernel(
    probs,  # [V, padded], as forward_kernel left them
    tile_max,  # [tiles, padded]
    lse,  # [n]
    coef,  # [n]
    targets,  # [n]
    energy,  # [groups, V] out; infinite at targets, which are always kept
    mass,  # [groups, V] out: sum_t |c_t| p_tv
    totals,  # [groups, blocks] out: energy of a block of columns
    n,
    padded,
    vocab,
    TILE: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    block, group = tl.program_id(0), tl.program_id(1)
    rows = block * BLOCK_V + tl.arange(0, BLOCK_V)
    tile = block * BLOCK_V // TILE  # BLOCK_V divides TILE
    squares = tl.zeros([BLOCK_V], tl.float32)
    sums = tl.zeros([BLOCK_V], tl.float32)
    hits = tl.zeros([BLOCK_V], tl.int32)
    for first in range(0, min(GROUP_TOKENS, n - group * GROUP_TOKENS), BLOCK_T):
        tokens = group * GROUP_TOKENS + first + tl.arange(0, BLOCK_T)
        real = tokens < n
        largest = tl.load(tile_max + tile * padded + tokens, mask=real, other=0.0)
        scale = tl.exp(largest - tl.load(lse + tokens, mask=real, other=0.0))
        scale *= tl.abs(tl.load(coef + tokens, mask=real, other=0.0))
        place = probs + rows.to(tl.int64)[:, None] * padded + tokens[None, :]
        p = tl.load(place, mask=(rows < vocab)[:, None] & real[None, :], other=0.0).to(tl.float32) * scale[None, :]
        squares += tl.sum(p * p, 1)
        sums += tl.sum(p, 1)
        target = tl.load(targets + tokens, mask=real, other=-1)
        hits += tl.sum((rows[:, None] == target[None, :]).to(tl.int32), 1)
    place = group * vocab + rows
    tl.store(energy + place, tl.where(hits > 0, float("inf"), squares), mask=rows < vocab)
    tl.store(mass + place, sums, mask=rows < vocab)
    tl.store(totals + group * tl.num_programs(0) + block, tl.sum(squares, 0))


@triton.jit
def below_kernel(
    energy,  # [size]
    budget,  # [1]
    below,  # [blocks, LEVELS] out: energy of this block's columns under each threshold
    size,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = tl.load(energy + places, mask=places < size, other=float("inf"))
    whole = tl.load(budget)
    for level in range(LEVELS):
        threshold = whole * tl.exp2(-level / 6.0)
        tl.store(below + tl.program_id(0) * LEVELS + level, tl.sum(tl.where(e < threshold, e, 0.0), 0))


@triton.jit
def is_kept(energy, threshold, group, rows, vocab):
    if energy is None:
        kept = rows < vocab
    else:
        e = tl.load(energy + group * vocab + rows, mask=rows < vocab, other=0.0)
        kept = (e >= tl.load(threshold)) & (e > 0) | (e != e)  # NaN stays, and makes NaN gradients
    return kept


@triton.jit
def count_kernel(
    energy,  # [groups, V]; None keeps everything
    threshold,  # [1]
    counts,  # [groups, blocks] int32 out
    vocab,
    BLOCK: tl.constexpr,
):
    block, group = tl.program_id(0), tl.program_id(1)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    kept = is_kept(energy, threshold, group, rows, vocab)
    tl.store(counts + group * tl.num_programs(0) + block, tl.sum(kept.to(tl.int32), 0))


@triton.jit
def compact_kernel(
    energy,  # [groups, V]; None keeps everything
    threshold,  # [1]
    ends,  # [groups, blocks] int32: number of kept columns up to the end of each block
    columns,  # [groups, V] int32 out: the kept columns, ascending
    mass,  # [groups, V]: set to 0 where kept; or None
    vocab,
    BLOCK: tl.constexpr,
):
    block, group = tl.program_id(0), tl.program_id(1)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    kept = is_kept(energy, threshold, group, rows, vocab)
    begin = tl.load(ends + group * tl.num_programs(0) + block - 1, mask=block > 0, other=0)
    place = begin + tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(columns + group * vocab + place, rows, mask=kept)
    if mass is not None:
        tl.store(mass + group * vocab + rows, tl.zeros([BLOCK], tl.float32), mask=kept)
