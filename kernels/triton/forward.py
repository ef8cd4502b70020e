"""Logits and the statistics of each token's distribution, in one pass over the LM head.

The log-sum-exp, the target's logit and the entropy all come from the float32 accumulators of the GEMM, never from a
rounded logit. Probabilities are stored transposed, [vocabulary, tokens], as on the CPU: a column of the usual layout is
then contiguous, and the backward pass gathers whole cache lines.
"""
# mypy: disable-error-code="import-untyped"

import triton
import triton.language as tl

from advgame.kernels.triton.blocks import described, in_parts, product

TILE = 64
"""Vocabulary rows whose probabilities share a maximum: the part of a block's logits that is processed at a time."""


@triton.jit
def forward_kernel(
    hidden,  # [n, H] blocks; so is the next
    weight,  # [V, H]
    bias,  # [V] or None
    targets,  # [n] int64
    probs,  # [V, padded] blocks, or None: receives exp(logit - max of the tile), times the soft-cap's slope
    tile_max,  # [tiles, padded] float32 out; so are the next three
    tile_sum,  # sum of exp(logit - max)
    tile_weighted,  # sum of exp(logit - max) (logit - max), for the entropy; or None
    tile_mass,  # sum of what is stored, where the logits are capped; or None
    target_logit,  # [n] float32 out
    n,
    padded,  # n, rounded up to a multiple of BLOCK_T
    vocab,
    width,
    softcap,
    inverse_temperature,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
):
    hidden = described(hidden, n, width, BLOCK_T, BLOCK_H)
    weight = described(weight, vocab, width, BLOCK_V, BLOCK_H)
    if probs is not None:
        probs = described(probs, vocab, padded, TILE, BLOCK_T)

    # Blocks of the vocabulary come in groups. A group's weights stay in L2 until all tokens are done.
    of_vocab, of_tokens = tl.cdiv(vocab, BLOCK_V), padded // BLOCK_T
    first = tl.program_id(0) // (GROUP * of_tokens) * GROUP
    members = min(of_vocab - first, GROUP)
    inside = tl.program_id(0) % (GROUP * of_tokens)
    first_row, first_token = (first + inside % members) * BLOCK_V, inside // members * BLOCK_T

    total = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    for k in range(0, width, BLOCK_H):
        total = product(hidden.load([first_token, k]), weight.load([first_row, k]).T, total, PRECISION)

    # Tokens are the accumulator's rows: a thread then holds much of a token's tile, and needs few others to sum it up.
    tokens = first_token + tl.arange(0, BLOCK_T)
    target = tl.load(targets + tokens, mask=tokens < n, other=-1)
    parts = in_parts(total, TILE)
    for part in tl.static_range(BLOCK_V // TILE):
        row = first_row + part * TILE
        rows = row + tl.arange(0, TILE)
        logits = parts[part]
        if bias is not None:
            logits += tl.load(bias + rows, mask=rows < vocab, other=0.0).to(tl.float32)[None, :]
        if tile_mass is not None:
            # tanh by the exponential of a number <= 0, which cannot overflow
            e = tl.exp(-2 * tl.abs(logits) / softcap)
            tanh = tl.where(logits < 0, -1.0, 1.0) * (1 - e) / (1 + e) + (logits - logits)  # infinity becomes NaN
            slope = 1 - tanh * tanh
            logits = softcap * tanh
        logits = tl.where((rows < vocab)[None, :], logits * inverse_temperature, float("-inf"))
        tl.store(target_logit + tokens[:, None] + 0 * rows[None, :], logits, mask=rows[None, :] == target[:, None])

        largest = tl.maximum(tl.max(logits, 1), -3.4e38)  # finite, so that -inf - largest is -inf and not NaN
        shifted = logits - largest[:, None]
        e = tl.exp(shifted)
        place = row // TILE * padded + tokens
        real = tokens < tl.where(row < vocab, padded, 0)  # the last block has tiles beyond the vocabulary
        tl.store(tile_max + place, largest, mask=real)
        tl.store(tile_sum + place, tl.sum(e, 1), mask=real)
        if tile_weighted is not None:
            tl.store(tile_weighted + place, tl.sum(tl.where(e > 0, e * shifted, 0.0), 1), mask=real)
        if tile_mass is not None:
            e *= slope
            tl.store(tile_mass + place, tl.sum(e, 1), mask=real)
        if probs is not None:
            probs.store([row, first_token], e.to(probs.dtype).T)


@triton.jit
def combine_kernel(
    tile_max,  # [tiles, padded]; so are the next three, the last two of which may be None
    tile_sum,
    tile_weighted,
    tile_mass,
    target_logit,  # [n]
    logps,  # [n] out; so are the next three, the last two of which may be empty
    lse,
    entropy,
    mass,
    n,
    padded,
    tiles,
    BLOCK_T: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
):
    """Puts the tiles' sums on one scale, the largest logit of the whole row, and adds them up."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    largest = tl.full([BLOCK_T], float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK_TILES):
        tile = first + tl.arange(0, BLOCK_TILES)
        inside = (tile < tiles)[:, None] & (tokens < n)[None, :]
        block = tl.load(tile_max + tile[:, None] * padded + tokens[None, :], mask=inside, other=float("-inf"))
        largest = tl.maximum(largest, tl.max(block, 0))
    largest = tl.where(tokens < n, largest, 0.0)
    total = tl.zeros([BLOCK_T], tl.float32)
    weighted = tl.zeros([BLOCK_T], tl.float32)
    whole = tl.zeros([BLOCK_T], tl.float32)
    for first in range(0, tiles, BLOCK_TILES):
        tile = first + tl.arange(0, BLOCK_TILES)
        inside = (tile < tiles)[:, None] & (tokens < n)[None, :]
        place = tile[:, None] * padded + tokens[None, :]
        shift = tl.load(tile_max + place, mask=inside, other=float("-inf")) - largest[None, :]
        scale = tl.exp(shift)
        sums = tl.load(tile_sum + place, mask=inside, other=0.0)
        total += tl.sum(sums * scale, 0)
        if tile_weighted is not None:
            # E[logit] = largest + sum over tiles of scale (weighted + (max - largest) sum) / total
            terms = tl.load(tile_weighted + place, mask=inside, other=0.0) * scale
            terms += tl.where(scale > 0, shift * scale * sums, 0.0)
            weighted += tl.sum(terms, 0)
        if tile_mass is not None:
            whole += tl.sum(tl.load(tile_mass + place, mask=inside, other=0.0) * scale, 0)
    logsumexp = largest + tl.log(total)
    tl.store(lse + tokens, logsumexp, mask=tokens < n)
    tl.store(logps + tokens, tl.load(target_logit + tokens, mask=tokens < n) - logsumexp, mask=tokens < n)
    if tile_weighted is not None:
        tl.store(entropy + tokens, tl.log(total) - weighted / total, mask=tokens < n)
    if tile_mass is not None:
        tl.store(mass + tokens, whole / total, mask=tokens < n)
