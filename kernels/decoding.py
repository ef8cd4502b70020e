"""Attention of new tokens to a key-value cache in which sequences share what they begin with.

A cache holds the tokens of one layer in blocks of 16: keys [Hkv, blocks, D, 16], transposed, and values
[Hkv, blocks, 16, D]. A sequence is a list of pieces, runs of tokens that each begin with a block; any number of
sequences may name the same piece.
"""

import math

import torch
from torch import Tensor

from advgame.kernels.arguments import require
from advgame.kernels.registry import resolve_backend

BLOCK = 16
"""Tokens of a block."""


def blocks_of(tokens: int) -> int:
    """The number of blocks that a piece takes."""
    return -(-tokens // BLOCK)


def empty_cache(
    layers: int, blocks: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Uninitialised keys [layers, heads, blocks, width, 16] and values [layers, heads, blocks, 16, width]."""
    shape = (layers, heads, blocks)
    keys = torch.empty(*shape, width, BLOCK, dtype=dtype, device=device)
    return keys, torch.empty(*shape, BLOCK, width, dtype=dtype, device=device)


def cache_tokens(
    keys: Tensor, values: Tensor, key: Tensor, value: Tensor, places: Tensor, *, backend: str | None = None
) -> None:
    """Puts tokens into a layer's cache, in place.

    Args:
        keys, values: the layer's, see above; float32 or bfloat16.
        key, value: [T, Hkv, D], of the cache's dtype.
        places: [T] int64, 16 times a token's block plus its place in it; no two may be equal.
        backend: "eager" (plain PyTorch, the oracle), "cpu" (csrc/), "triton", or None, which picks by device.

    Raises:
        ValueError: a wrong shape, dtype, device or place; the message names the argument. Triton does not wait for the
            device, and leaves tokens out that have no place in the cache.
    """
    backend = resolve_backend(backend, keys)
    if backend == "cpu":
        torch.ops.advgame.cache_tokens(keys, values, key, value, places.contiguous())
        return
    _check_cache(keys, values)
    for name, tensor in (("key", key), ("value", value)):
        _require_tensor(name, tensor, (len(places), keys.size(0), keys.size(2)), keys)
    room = keys.size(1) * BLOCK
    whole = places.dim() == 1 and places.dtype == torch.int64
    require(whole, f"places: expected int64 [{len(key)}], got {places.dtype} {list(places.shape)}")
    if backend == "triton":
        from advgame.kernels.triton import decode

        decode.cache_tokens(keys, values, key, value, places)
        return
    inside = bool(((places >= 0) & (places < room)).all())
    require(inside, f"places: some of {places.tolist()} are outside [0, {room})")
    block, offset = places // BLOCK, places % BLOCK
    keys[:, block, :, offset] = key
    values[:, block, offset] = value.transpose(0, 1)


def cached_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pieces: Tensor,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Softmax attention of one token of each of R sequences to all tokens of its pieces. Not differentiable.

    A row's result does not depend on the rows beside it.

    Args:
        query: [R, Hq, D], float32 or bfloat16; Hkv divides Hq, and each key head serves Hq / Hkv neighbours.
        keys, values: a layer's cache, see above, of the same dtype; sums are float32.
        pieces: [R, P, 2] int32, the first block and the number of tokens of each; a sequence needs one token or more.
        scale: factor of the scores; None is D ** -0.5.
        backend: as in `cache_tokens`.

    Returns: [R, Hq, D].

    Raises:
        ValueError: a wrong shape, dtype, device or piece; the message names the argument. Triton does not wait for the
            device, and reads no blocks that are not in the cache.
    """
    scale = keys.size(-2) ** -0.5 if scale is None else scale
    require(math.isfinite(scale), f"scale: expected a finite number or None, got {scale}")
    backend = resolve_backend(backend, query)
    if backend == "cpu":
        return torch.ops.advgame.cached_attention(query.contiguous(), keys, values, pieces.contiguous(), scale)
    _check_cache(keys, values)
    _require_tensor("query", query, (query.size(0), query.size(1), keys.size(2)), keys)
    require(query.size(1) % keys.size(0) == 0, f"query: {query.size(1)} heads are no multiple of {keys.size(0)}")
    fits = pieces.dim() == 3 and pieces.shape[::2] == (query.size(0), 2) and pieces.dtype == torch.int32
    require(fits, f"pieces: expected int32 [{query.size(0)}, P, 2], got {pieces.dtype} {list(pieces.shape)}")
    if backend == "triton":
        from advgame.kernels.triton import decode

        return decode.cached_attention(query, keys, values, pieces, scale)
    _check_pieces(pieces, keys.size(1))
    return _gathered_attention(query, keys, values, pieces.long(), scale)


def _gathered_attention(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> Tensor:
    """Over copies of the sequences' blocks, one beside the other; what lies behind a piece is masked."""
    rows, heads, width = query.shape
    counts = (pieces[..., 1] + BLOCK - 1) // BLOCK  # [R, P] blocks
    longest = int(counts.sum(1).max()) if rows else 0
    ends = counts.cumsum(1)
    number = torch.arange(longest, device=query.device).expand(rows, -1)  # of a block in its sequence
    piece = (number[:, :, None] >= ends[:, None]).sum(2).clamp_(max=pieces.size(1) - 1)  # [R, blocks]
    within = number - (ends - counts).gather(1, piece)
    block = (pieces[..., 0].gather(1, piece) + within) * (number < ends[:, -1:])
    left = pieces[..., 1].gather(1, piece) - within * BLOCK  # tokens of the piece from here on
    offset = torch.arange(BLOCK, device=query.device)
    seen = (offset < left[:, :, None]) & (number < ends[:, -1:])[:, :, None]  # [R, blocks, 16]
    k = keys[:, block].transpose(-1, -2).flatten(2, 3).float()  # [Hkv, R, S, D]
    v = values[:, block].flatten(2, 3).float().masked_fill(~seen.flatten(1)[:, :, None], 0)
    q = query.float().unflatten(1, (keys.size(0), -1)).permute(1, 0, 2, 3)  # [Hkv, R, G, D]
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen.flatten(1)[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).permute(1, 0, 2, 3).reshape(rows, heads, width).to(query.dtype)


def _check_pieces(pieces: Tensor, blocks: int) -> None:
    first, tokens = pieces.long().unbind(-1)
    inside = bool(((first >= 0) & (tokens >= 0) & (first + (tokens + BLOCK - 1) // BLOCK <= blocks)).all())
    require(inside, f"pieces: some of {pieces.tolist()} are not in a cache of {blocks} blocks")


def _check_cache(keys: Tensor, values: Tensor) -> None:
    fits = keys.dim() == 4 and keys.size(3) == BLOCK and keys.dtype in (torch.float32, torch.bfloat16)
    require(
        fits,
        f"keys: expected float32 or bfloat16 [Hkv, blocks, D, {BLOCK}], got {keys.dtype} {list(keys.shape)}",
    )
    heads, blocks, width, _ = keys.shape
    _require_tensor("values", values, (heads, blocks, BLOCK, width), keys)


def _require_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    fits = tensor.shape == shape and tensor.dtype == like.dtype and tensor.device == like.device
    require(
        fits,
        f"{name}: expected {like.dtype} {list(shape)} on {like.device}, got {tensor.dtype} {list(tensor.shape)} on "
        f"{tensor.device}",
    )
