"""Gradients from the kept columns: dL is gathered once into a dense matrix, which two GEMMs then use.

Every element of a gradient belongs to one program, which adds to it in a fixed order. There are no atomics, and two
runs give the same bits.
"""
# mypy: disable-error-code="import-untyped"

import triton
import triton.language as tl

from advgame.kernels.triton.blocks import described, in_parts, product


@triton.jit
def gather_kernel(
    probs,  # [V, padded]
    tile_max,  # [tiles, padded]
    lse,  # [n]
    coef,  # [n]
    slope,  # [n] of the soft-cap at the target
    targets,  # [n]
    columns,  # [groups, V]
    counts,  # [groups] number of kept columns
    compact,  # [groups, capacity, GROUP_TOKENS] out: dL transposed, in whole blocks, zeros after the last column
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
    compact,  # [groups * capacity, GROUP_TOKENS] blocks
    weight,  # [V, H]
    columns,  # [groups, V]
    counts,  # [groups]
    grad_hidden,  # [n, H] float32, added to
    first,
    capacity,
    n,
    vocab,
    width,
    groups,
    PRECISION: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PART_H: tl.constexpr,
):
    compact = described(compact, groups * capacity, GROUP_TOKENS, BLOCK_V, BLOCK_T)
    group, begin = tl.program_id(1) // (GROUP_TOKENS // BLOCK_T), tl.program_id(1) % (GROUP_TOKENS // BLOCK_T) * BLOCK_T
    tokens = group * GROUP_TOKENS + begin + tl.arange(0, BLOCK_T)
    first_out = tl.program_id(0) * BLOCK_H
    out = first_out + tl.arange(0, BLOCK_H)
    count = min(tl.load(counts + group) - first, capacity)
    if (count > 0) & (group * GROUP_TOKENS + begin < n):
        total = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
        for k in range(0, count, BLOCK_V):
            places = k + tl.arange(0, BLOCK_V)
            column = tl.load(columns + group * vocab + first + places, mask=places < count, other=0)
            from_weight = weight + column.to(tl.int64)[:, None] * width + out[None, :]
            w = tl.load(from_weight, mask=(places < count)[:, None] & (out < width)[None, :], other=0.0)
            total = product(compact.load([group * capacity + k, begin]).T, w, total, PRECISION)
        add_to_rows(total, grad_hidden, None, tokens, tokens < n, first_out, width, PART_H)


@triton.jit
def weight_kernel(
    compact,  # [groups * capacity, GROUP_TOKENS] blocks
    hidden,  # [n, H] blocks
    columns,  # [groups, V]
    ends,  # [groups, blocks] number of kept columns up to the end of each block of the vocabulary
    grad_weight,  # [V, H], added to; or None
    weight_rest,  # [V, H] int8, the lower bits of a bfloat16 grad_weight; or None
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
    PART_H: tl.constexpr,
):
    """A program owns a block of the vocabulary, and adds group after group to the rows that the group keeps in it.

    The last block of dL may extend beyond the program's columns; the surplus rows are not stored."""
    compact = described(compact, groups * capacity, GROUP_TOKENS, BLOCK_V, BLOCK_T)
    hidden = described(hidden, n, width, BLOCK_T, BLOCK_H)
    block = tl.program_id(1)
    first_out = tl.program_id(0) * BLOCK_H
    for group in range(groups):
        of_group = ends + group * tl.num_programs(1) + block
        begin = max(tl.load(of_group - 1, mask=block > 0, other=0) - first, 0)
        end = min(tl.load(of_group) - first, capacity)
        for k in range(begin, end, BLOCK_V):
            total = tl.zeros([BLOCK_V, BLOCK_H], tl.float32)
            sums = tl.zeros([BLOCK_V], tl.float32)
            for t in range(0, min(GROUP_TOKENS, n - group * GROUP_TOKENS), BLOCK_T):
                d = compact.load([group * capacity + k, t])
                if grad_weight is not None:
                    total = product(d, hidden.load([group * GROUP_TOKENS + t, first_out]), total, PRECISION)
                if grad_bias is not None:
                    sums += tl.sum(d.to(tl.float32), 1)
            places = k + tl.arange(0, BLOCK_V)
            real = places < end
            column = tl.load(columns + group * vocab + first + places, mask=real, other=0)
            if grad_weight is not None:
                add_to_rows(total, grad_weight, weight_rest, column, real, first_out, width, PART_H)
            if grad_bias is not None:  # noqa: SIM102, the outer one is decided at compile time
                if tl.program_id(0) == 0:
                    to_bias = grad_bias + column
                    tl.store(to_bias, tl.load(to_bias, mask=real, other=0.0) + sums, mask=real)
        tl.debug_barrier()  # the next group may add to the same rows from other threads


@triton.jit
def add_to_rows(total, gradient, rest, rows, real, first, width, PART_H: tl.constexpr):
    """Adds `total` to rows of `gradient`, from column `first` on. With `rest`, the two hold a float32 sum: `gradient`
    its upper half, rounded, and `rest` the correction to the next eight bits."""
    parts = in_parts(total, PART_H)
    for part in tl.static_range(total.shape[1] // PART_H):
        out = first + part * PART_H + tl.arange(0, PART_H)
        place = rows.to(tl.int64)[:, None] * width + out[None, :]
        mask = real[:, None] & (out < width)[None, :]
        before = tl.load(gradient + place, mask=mask, other=0.0)
        if rest is None:
            after = (before.to(tl.float32) + parts[part]).to(gradient.dtype.element_ty)
        else:
            upper = before.to(tl.int16, bitcast=True).to(tl.int32) << 16
            lower = tl.load(rest + place, mask=mask, other=0).to(tl.int32) << 8
            sums = (upper + lower).to(tl.float32, bitcast=True) + parts[part]
            bits = tl.where(sums == sums, sums.to(tl.int32, bitcast=True) + (1 << 7), 0x7FC00000)  # NaN stays NaN
            tl.store(rest + place, (bits >> 8).to(tl.int8), mask=mask)
            after = ((bits + (1 << 15)) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
        tl.store(gradient + place, after, mask=mask)


@triton.jit
def scale_kernel(
    gradient,  # [size], multiplied
    factor,  # scalar float32
    size,
    BLOCK: tl.constexpr,
):
    """Nothing is done if the factor is 1, as it is when backward is called on the loss."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        scaled = tl.load(gradient + places, mask=places < size, other=0.0).to(tl.float32) * by
        tl.store(gradient + places, scaled.to(gradient.dtype.element_ty), mask=places < size)
