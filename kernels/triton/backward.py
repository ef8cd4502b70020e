"""Gradients from the columns that were kept: gathered once into a dense dL, then two GEMMs with it.

Every element of a gradient belongs to one program, which adds to it in a fixed order: there are no atomics, and two
runs give the same bits.
"""

import triton
import triton.language as tl

from advgame.kernels.triton.product import product


@triton.jit
def gather_kernel(
    probs,  # [V, padded]
    tile_max,  # [tiles, padded]
    lse,  # [n]
    coef,  # [n]
    slope,  # [n] of the soft-cap at the target
    targets,  # [n]
    columns,  # [groups, V]
    counts,  # [groups] kept columns
    compact,  # [groups, capacity, GROUP_TOKENS] out: dL, columns first; whole blocks, zeros after the last column
    kept,  # [groups, blocks, GROUP_TOKENS] out: probability in a block of columns
    first,  # of the columns of this round
    capacity,
    n,
    padded,
    vocab,
    TILE: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    block, group = tl.program_id(0), tl.program_id(1)
    count = tl.load(counts + group) - first
    if block * BLOCK_V < count:
        places = block * BLOCK_V + tl.arange(0, BLOCK_V)
        real_column = places < count
        column = tl.load(columns + group * vocab + first + places, mask=real_column, other=0)
        for begin in range(0, min(GROUP_TOKENS, n - group * GROUP_TOKENS), BLOCK_T):
            inside = begin + tl.arange(0, BLOCK_T)
            tokens = group * GROUP_TOKENS + inside
            real = tokens < n
            mask = real_column[:, None] & real[None, :]
            c = tl.load(coef + tokens, mask=real, other=0.0)
            largest = tl.load(tile_max + (column // TILE)[:, None] * padded + tokens[None, :], mask=mask, other=0.0)
            scale = tl.exp(largest - tl.load(lse + tokens, mask=real, other=0.0)[None, :])
            p = tl.load(probs + column.to(tl.int64)[:, None] * padded + tokens[None, :], mask=mask, other=0.0)
            p = p.to(tl.float32) * scale
            tl.store(kept + (group * tl.num_programs(0) + block) * GROUP_TOKENS + inside, tl.sum(p, 0))
            hit = mask & (column[:, None] == tl.load(targets + tokens, mask=real, other=-1)[None, :])
            d = tl.where(hit, (c * tl.load(slope + tokens, mask=real, other=0.0))[None, :], 0.0) - c[None, :] * p
            d = tl.where(mask, d, 0.0)
            to = compact + (group * capacity + places).to(tl.int64)[:, None] * GROUP_TOKENS + inside[None, :]
            tl.store(to, d.to(compact.dtype.element_ty))


@triton.jit
def hidden_kernel(
    compact,  # [groups, capacity, GROUP_TOKENS]
    weight,  # [V, H]
    columns,  # [groups, V]
    counts,  # [groups]
    grad_hidden,  # [n, H] float32, added to
    first,
    capacity,
    n,
    vocab,
    width,
    PRECISION: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    group, begin = tl.program_id(1) // (GROUP_TOKENS // BLOCK_T), tl.program_id(1) % (GROUP_TOKENS // BLOCK_T) * BLOCK_T
    inside = begin + tl.arange(0, BLOCK_T)
    tokens = group * GROUP_TOKENS + inside
    out = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    count = min(tl.load(counts + group) - first, capacity)
    if (count > 0) & (group * GROUP_TOKENS + begin < n):
        total = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
        for k in range(0, count, BLOCK_V):
            places = k + tl.arange(0, BLOCK_V)
            real_column = places < count
            column = tl.load(columns + group * vocab + first + places, mask=real_column, other=0)
            from_compact = compact + (group * capacity + places).to(tl.int64)[None, :] * GROUP_TOKENS + inside[:, None]
            d = tl.load(from_compact, mask=real_column[None, :], other=0.0)
            from_weight = weight + column.to(tl.int64)[:, None] * width + out[None, :]
            w = tl.load(from_weight, mask=real_column[:, None] & (out < width)[None, :], other=0.0)
            total = product(d, w, total, PRECISION)
        to = grad_hidden + tokens.to(tl.int64)[:, None] * width + out[None, :]
        mask = (tokens < n)[:, None] & (out < width)[None, :]
        tl.store(to, tl.load(to, mask=mask, other=0.0) + total, mask=mask)


@triton.jit
def weight_kernel(
    compact,  # [groups, capacity, GROUP_TOKENS]
    hidden,  # [n, H]
    columns,  # [groups, V]
    ends,  # [groups, blocks] kept columns up to and with each block of the vocabulary
    grad_weight,  # [V, H], added to; or None
    weight_rest,  # [V, H] what grad_weight's half precision cannot hold; None for float32
    grad_bias,  # [V] float32, added to; or None
    first,
    capacity,
    n,
    vocab,
    width,
    groups,
    PRECISION: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """A program owns a block of the vocabulary and adds one group after the other to the rows that it keeps there."""
    block = tl.program_id(1)
    out = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    for group in range(groups):
        of_group = ends + group * tl.num_programs(1) + block
        begin = max(tl.load(of_group - 1, mask=block > 0, other=0) - first, 0)
        end = min(tl.load(of_group) - first, capacity)
        for k in range(begin, end, BLOCK_V):
            places = k + tl.arange(0, BLOCK_V)
            real_column = places < end
            column = tl.load(columns + group * vocab + first + places, mask=real_column, other=0)
            from_compact = compact + (group * capacity + places).to(tl.int64)[:, None] * GROUP_TOKENS
            total = tl.zeros([BLOCK_V, BLOCK_H], tl.float32)
            sums = tl.zeros([BLOCK_V], tl.float32)
            for t in range(0, min(GROUP_TOKENS, n - group * GROUP_TOKENS), BLOCK_T):
                inside = t + tl.arange(0, BLOCK_T)
                tokens = group * GROUP_TOKENS + inside
                d = tl.load(from_compact + inside[None, :], mask=real_column[:, None], other=0.0)
                if grad_weight is not None:
                    from_hidden = hidden + tokens.to(tl.int64)[:, None] * width + out[None, :]
                    x = tl.load(from_hidden, mask=(tokens < n)[:, None] & (out < width)[None, :], other=0.0)
                    total = product(d, x, total, PRECISION)
                if grad_bias is not None:
                    sums += tl.sum(d.to(tl.float32), 1)
            if grad_weight is not None:
                to = grad_weight + column.to(tl.int64)[:, None] * width + out[None, :]
                mask = real_column[:, None] & (out < width)[None, :]
                total += tl.load(to, mask=mask, other=0.0).to(tl.float32)
                rounded = total
                if weight_rest is not None:
                    to_rest = weight_rest + column.to(tl.int64)[:, None] * width + out[None, :]
                    total += tl.load(to_rest, mask=mask, other=0.0).to(tl.float32)
                    rounded = total.to(grad_weight.dtype.element_ty)
                    tl.store(to_rest, (total - rounded.to(tl.float32)).to(weight_rest.dtype.element_ty), mask=mask)
                tl.store(to, rounded, mask=mask)
            if grad_bias is not None:  # noqa: SIM102, the outer one is decided at compile time
                if tl.program_id(0) == 0:
                    to_bias = grad_bias + column
                    tl.store(to_bias, tl.load(to_bias, mask=real_column, other=0.0) + sums, mask=real_column)
        tl.debug_barrier()  # the next group may add to the same rows from other threads


@triton.jit
def scale_kernel(
    gradient,  # [size], multiplied
    factor,  # scalar float32
    size,
    BLOCK: tl.constexpr,
):
    """A loss that is differentiated by itself has a factor of 1, and nothing to be done."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        scaled = tl.load(gradient + places, mask=places < size, other=0.0).to(tl.float32) * by
        tl.store(gradient + places, scaled.to(gradient.dtype.element_ty), mask=places < size)
