"""The plain PyTorch LM head: the oracle that every faster path is checked against."""

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
) -> tuple[Tensor, Tensor | None]:
    """(log-prob of each target [T], entropy of each distribution [T] if asked), in float32 or better."""
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(accumulate) @ weight.to(accumulate).T
    if bias is not None:
        logits = logits + bias.to(accumulate)
    if logit_softcap is not None:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    logits = logits / temperature
    logps = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    entropy = torch.special.entr(logits.detach().softmax(-1)).sum(-1) if with_entropy else None
    return logps, entropy
