"""Nucleus sampling of a row of logits, without sorting it; see kernels/sampling.py.

A program has one row, which stays in the card's cache. What the nucleus ends with, and the token itself, are found by
their values: of eight thresholds at a time, the probabilities above each are summed.
"""
# mypy: disable-error-code="import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

from advgame.kernels.triton import launch

INVALID = -1
"""In the place of a token, where there is none."""


@triton.jit
def order_of(logits):
    """int32 keys that compare as the logits do."""
    bits = (logits + 0.0).to(tl.int32, bitcast=True)  # + 0.0: -0.0 is 0.0
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def logits_at(row, first, vocab, BLOCK: tl.constexpr):
    places = first + tl.arange(0, BLOCK)
    return tl.load(row + places, mask=places < vocab, other=float("-inf")), places


@triton.jit
def lowest_key(row, vocab, largest, scale, low, high, bound, STRICT: tl.constexpr, BLOCK: tl.constexpr):
    """(the lowest key from low to high above which there is less than `bound`, or no more if STRICT is False; what is
    above it). Of what is exp(scale (logit - largest))."""
    above = tl.full([], 0.0, tl.float64)
    low, high = low.to(tl.int64), high.to(tl.int64)
    while low < high:
        step = (high - low) // 8 + 1
        thresholds = low + step * (tl.arange(0, 8) + 1) - 1
        masses = tl.zeros([8], tl.float64)
        for first in range(0, vocab, BLOCK):
            x, _ = logits_at(row, first, vocab, BLOCK)
            counted = order_of(x).to(tl.int64)[:, None] > thresholds[None, :]
            masses += tl.sum(tl.where(counted, tl.exp((x - largest) * scale)[:, None], 0.0), 0).to(tl.float64)
        enough = masses >= bound if STRICT else masses > bound
        passed = tl.sum(enough.to(tl.int64), 0)
        high = tl.minimum(high, low + step * (passed + 1) - 1)
        low = low + step * passed
    for first in range(0, vocab, BLOCK):
        x, _ = logits_at(row, first, vocab, BLOCK)
        above += tl.sum(tl.where(order_of(x).to(tl.int64) > low, tl.exp((x - largest) * scale), 0.0), 0).to(tl.float64)
    return low, above


@triton.jit
def weight_of(row, vocab, largest, scale, key, BLOCK: tl.constexpr):
    """(what a logit of this key weighs, how many there are), both float64."""
    count = tl.full([], 0, tl.int64)
    weight = tl.full([], 0.0, tl.float32)
    for first in range(0, vocab, BLOCK):
        x, _ = logits_at(row, first, vocab, BLOCK)
        equal = order_of(x).to(tl.int64) == key
        count += tl.sum(equal.to(tl.int64), 0)
        weight = tl.maximum(weight, tl.max(tl.where(equal, tl.exp((x - largest) * scale), 0.0), 0))
    return weight.to(tl.float64), count.to(tl.float64)


@triton.jit
def place_of(row, vocab, key, rank, BLOCK: tl.constexpr):
    """Of the logits of this key, the place of the one before which there are `rank` of them."""
    place = tl.full([], 0, tl.int64)
    passed = tl.full([], 0, tl.int64)
    for first in range(0, vocab, BLOCK):
        x, places = logits_at(row, first, vocab, BLOCK)
        equal = ((order_of(x).to(tl.int64) == key) & (places < vocab)).to(tl.int64)
        found = (equal > 0) & (passed + tl.cumsum(equal, 0) - 1 == rank)
        place = tl.maximum(place, tl.max(tl.where(found, places, 0), 0).to(tl.int64))
        passed += tl.sum(equal, 0)
    return place


@triton.jit
def in_nucleus(row, vocab, largest, scale, lowest, whole, top_p, uniform, BLOCK: tl.constexpr):
    """A token of the nucleus, whose tokens follow each other by their logits, and equal ones by their places."""
    high = order_of(largest)
    bound = whole * top_p
    low, above = lowest_key(row, vocab, largest, scale, lowest, high, bound, True, BLOCK)
    weight, equal = weight_of(row, vocab, largest, scale, low, BLOCK)
    kept = tl.maximum(tl.minimum(equal, tl.ceil((bound - above) / weight)), 1.0)  # of the last logits, which are equal
    target = uniform * (above + kept * weight)
    key, above = lowest_key(row, vocab, largest, scale, low, high, target, False, BLOCK)
    weight, equal = weight_of(row, vocab, largest, scale, key, BLOCK)
    last = tl.where(key == low, kept, equal) - 1.0
    rank = tl.maximum(tl.minimum(tl.floor((target - above) / weight), last), 0.0)
    return place_of(row, vocab, key, rank.to(tl.int64), BLOCK)


@triton.jit
def in_vocabulary(row, vocab, largest, scale, whole, uniform, BLOCK: tl.constexpr):
    """A token of the whole vocabulary, whose tokens follow each other by their places."""
    target = uniform * whole
    token = tl.full([], 0x7FFFFFFF, tl.int64)
    last = tl.full([], 0, tl.int64)  # that can be sampled at all, should rounding leave the target above all sums
    passed = tl.full([], 0.0, tl.float64)
    for first in range(0, vocab, BLOCK):
        x, places = logits_at(row, first, vocab, BLOCK)
        p = tl.exp((x - largest) * scale)
        found = (p > 0) & (passed + tl.cumsum(p.to(tl.float64), 0) > target)
        token = tl.minimum(token, tl.min(tl.where(found, places, 0x7FFFFFFF), 0).to(tl.int64))
        last = tl.maximum(last, tl.max(tl.where(p > 0, places, 0), 0).to(tl.int64))
        passed += tl.sum(p.to(tl.float64), 0)
    return tl.minimum(token, last)


@triton.jit
def sample_kernel(
    logits,  # [R, V] float32
    uniforms,  # [R] float64
    tokens,  # [R] int64 out; INVALID for a row that cannot be sampled
    logprobs,  # [R] float32 out
    vocab,
    temperature,
    top_p,
    GREEDY: tl.constexpr,
    TRUNCATED: tl.constexpr,
    INVALID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row = logits + number * vocab
    uniform = tl.load(uniforms + number)
    largest = tl.full([], float("-inf"), tl.float32)
    broken = tl.full([], 0, tl.int32)
    for first in range(0, vocab, BLOCK):
        x, _ = logits_at(row, first, vocab, BLOCK)
        broken += tl.sum(((x != x) | (x == float("inf"))).to(tl.int32), 0)
        largest = tl.maximum(largest, tl.max(x, 0))
    scale = 1.0 if GREEDY else 1.0 / temperature
    plain = tl.full([], 0.0, tl.float64)  # sums at temperature 1, and at the one asked for
    whole = tl.full([], 0.0, tl.float64)
    lowest = tl.full([], 0x7F800000, tl.int32)
    for first in range(0, vocab, BLOCK):
        x, _ = logits_at(row, first, vocab, BLOCK)
        plain += tl.sum(tl.exp(x - largest), 0).to(tl.float64)
        p = tl.exp((x - largest) * scale)
        whole += tl.sum(p.to(tl.float64), 0)
        lowest = tl.minimum(lowest, tl.min(tl.where(p > 0, order_of(x), 0x7F800000), 0))
    valid = (broken == 0) & (largest > float("-inf")) & (uniform >= 0) & (uniform < 1)
    valid = valid & (whole < float("inf")) & (tl.abs(largest * scale) < float("inf"))
    token = tl.full([], INVALID, tl.int64)
    if valid:
        if GREEDY:
            token = place_of(row, vocab, order_of(largest).to(tl.int64), 0, BLOCK)
        elif TRUNCATED:
            token = in_nucleus(row, vocab, largest, scale, lowest, whole, top_p, uniform, BLOCK)
        else:
            token = in_vocabulary(row, vocab, largest, scale, whole, uniform, BLOCK)
    tl.store(tokens + number, token)
    chosen = tl.load(row + tl.maximum(token, 0))
    tl.store(logprobs + number, (chosen - largest) - tl.log(plain.to(tl.float32)))


def sample_top_p(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """See sampling.sample_top_p; a row that cannot be sampled gets the token INVALID. logits: float32."""
    rows, vocab = logits.shape
    tokens, logprobs = uniforms.new_empty(rows, dtype=torch.int64), logits.new_empty(rows)
    if rows:
        sample_kernel[(rows,)](
            logits.contiguous(), uniforms.contiguous(), tokens, logprobs, vocab, float(temperature), float(top_p),
            GREEDY=temperature == 0, TRUNCATED=top_p < 1, INVALID=INVALID, **launch.SAMPLE,
        )  # fmt: skip
    return tokens, logprobs
