"""Log-prob of each target token, from hidden states and the LM head."""

import torch
from torch import Tensor

from advgame.kernels.arguments import check_head, require


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """log softmax(logits / temperature)[target], where logits = hidden weight^T + bias, soft-capped if asked.

    Args:
        hidden: [T, H], floating point. weight: [V, H], of hidden's dtype. targets: [T] int64 in [0, V).
        bias: [V] or None.
        logit_softcap: c > 0 turns the logits into c tanh(logits / c) (Gemma 2, arXiv 2408.00118); None: off.
        temperature: > 0.

    Returns:
        [T] float32 (float64 for float64 inputs), differentiable in hidden, weight and bias.

    Raises:
        ValueError: a wrong shape, dtype, device or range; the message names the argument.
    """
    check_head(hidden, weight, targets, bias, logit_softcap)
    require(temperature > 0, f"temperature: expected a positive number, got {temperature}")
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(accumulate) @ weight.to(accumulate).T
    if bias is not None:
        logits = logits + bias.to(accumulate)
    if logit_softcap is not None:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    logits = logits / temperature
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
