"""Nucleus sampling from logits, with the raw log-prob of each sampled token."""

from typing import NoReturn

import torch
from torch import Tensor

from advgame.kernels.arguments import check_scale
from advgame.kernels.registry import resolve_backend


def sample_top_p(
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples one token per row from the nucleus of softmax(logits / temperature), by inverse CDF.

    A row's token depends on the row's own logits and uniform number alone, and not on the batch that it is in. The
    nucleus is the smallest set of most probable tokens whose mass reaches top_p (Holtzman et al. 2020, arXiv
    1904.09751).

    Args:
        logits: [R, V], floating point; -inf forbids a token.
        uniforms: [R] float64 in [0, 1), on the device of `logits`.
        temperature: > 0, or 0 for the most probable token (`uniforms` then has no effect).
        top_p: in (0, 1]; at 1 the whole vocabulary is sampled.
        backend: "eager" (plain PyTorch, the oracle), "cpu" (csrc/), "triton", or None, which picks by device.

    Returns:
        tokens: [R] int64.
        logprobs: [R] float32, log softmax(logits)[token]: at temperature 1, and before truncation.

    Raises:
        ValueError: a wrong shape, dtype, device or range, or a row without one finite logit.
    """
    _check(logits, uniforms, temperature, top_p)
    logits = logits.float()
    backend = resolve_backend(backend, logits)
    if backend == "cpu":
        return torch.ops.advgame.sample_logits(logits.contiguous(), uniforms.contiguous(), temperature, top_p)
    if backend == "triton":
        from advgame.kernels.triton import sample

        tokens, logprobs = sample.sample_top_p(logits, uniforms, temperature, top_p)
        if (tokens == sample.INVALID).any():  # the only wait for the device
            _refuse(logits.logsumexp(-1), uniforms, temperature)
        return tokens, logprobs
    normalizers = logits.logsumexp(-1)
    probs = torch.softmax(logits / temperature, -1) if temperature else logits
    valid = normalizers.isfinite() & (uniforms >= 0) & (uniforms < 1)
    if temperature:
        valid &= probs.sum(-1).isfinite()
    if not valid.all():  # the only wait for the device
        _refuse(normalizers, uniforms, temperature)
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        tokens = _sample_probs(probs, uniforms, top_p)
    return tokens, logits.gather(-1, tokens[:, None])[:, 0] - normalizers


def _refuse(normalizers: Tensor, uniforms: Tensor, temperature: float) -> NoReturn:
    """Says which value cannot be sampled with."""
    if not normalizers.isfinite().all():
        raise ValueError("logits: every row needs at least one finite logit, and no NaN or +inf")
    outside = uniforms[~((uniforms >= 0) & (uniforms < 1))]
    if outside.numel():
        raise ValueError(f"uniforms: expected numbers in [0, 1), got {outside[0].item()}")
    raise ValueError(f"temperature: {temperature} is too small for logits of this size, which overflow")


def _sample_probs(probs: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    if top_p < 1:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
    cumulative = probs.double().cumsum(-1)
    kept = cumulative - probs < top_p if top_p < 1 else torch.ones_like(probs, dtype=torch.bool)
    last = (kept & (probs > 0)).long().mul(torch.arange(1, probs.size(-1) + 1, device=probs.device)).argmax(-1)
    mass = cumulative.gather(-1, kept.sum(-1, keepdim=True) - 1)
    index = torch.searchsorted(cumulative, uniforms[:, None] * mass, right=True)[:, 0].minimum(last)
    return order.gather(-1, index[:, None])[:, 0] if top_p < 1 else index


def _check(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> None:
    if logits.dim() != 2 or not logits.is_floating_point() or logits.size(1) == 0:
        raise ValueError(f"logits: expected floating point [R, V], got {logits.dtype} {list(logits.shape)}")
    if uniforms.shape != logits.shape[:1] or uniforms.dtype != torch.float64:
        raise ValueError(f"uniforms: expected float64 [{logits.size(0)}], got {uniforms.dtype} {list(uniforms.shape)}")
    if uniforms.device != logits.device:
        raise ValueError(f"uniforms: on {uniforms.device}, but logits are on {logits.device}")
    if temperature != 0:
        check_scale("temperature", temperature)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}")
