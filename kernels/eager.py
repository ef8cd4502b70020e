"""The LM head in plain PyTorch: the oracle that every backend is checked against."""

import torch
from torch import Tensor


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    logit_softcap: float | None,
    temperature: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    """([T] log-prob of each target, [T] entropy of each distribution or empty if not asked for), in float32 or better.

    Args:
        hidden: [T, H]. weight: [V, H]. targets: [T] int64. bias: [V] or None.
        logit_softcap, temperature: as in linear_logprobs.
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(accumulate) @ weight.to(accumulate).T
    if bias is not None:
        logits = logits + bias.to(accumulate)
    if logit_softcap is not None:
        infinity_to_nan = (logits - logits).detach()
        logits = logit_softcap * torch.tanh(logits / logit_softcap) + infinity_to_nan
    logits = logits / temperature
    lse = logits.logsumexp(-1)
    lse = lse + (lse - lse)  # NaN where a logit is infinite, as in csrc/
    logps = logits.gather(-1, targets[:, None])[:, 0] - lse
    if not with_entropy:
        return logps, logps.new_empty(0)
    return logps, torch.special.entr(logits.detach().softmax(-1)).sum(-1)
