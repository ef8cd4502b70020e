"""The LM head in plain PyTorch: the oracle that every backend is checked against."""

import torch
from torch import Tensor

from advgame.kernels.backend import Head
from advgame.kernels.shards import LogSumExp, SumGradient, gather, own_targets


def head_logprobs(hidden: Tensor, head: Head, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """([T] log-prob of each target, [T] entropy of each distribution or empty if not asked for), in float32 or better.

    Args:
        hidden: [T, H]. targets: [T] int64.
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    hidden = hidden.to(accumulate)
    if head.group is not None:
        hidden = SumGradient.apply(hidden, head.group)
    logits = hidden @ head.weight.to(accumulate).T
    if head.bias is not None:
        logits = logits + head.bias.to(accumulate)
    if head.logit_softcap:
        infinity_to_nan = (logits - logits).detach()
        logits = head.logit_softcap * torch.tanh(logits / head.logit_softcap) + infinity_to_nan
    logits = logits / head.temperature
    if head.group is not None:
        return _of_all_rows(logits, head, targets, with_entropy)
    lse = logits.logsumexp(-1)
    lse = lse + (lse - lse)  # NaN where a logit is infinite, as in csrc/
    logps = logits.gather(-1, targets[:, None])[:, 0] - lse
    if not with_entropy:
        return logps, logps.new_empty(0)
    return logps, torch.special.entr(logits.detach().softmax(-1)).sum(-1)


def _of_all_rows(logits: Tensor, head: Head, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """What head_logprobs returns, from the logits of this rank's rows, [T, rows]."""
    assert head.group is not None
    rows, here = own_targets(targets, head)
    target_logit = logits.gather(-1, rows[:, None])[:, 0]
    own = [logits.detach().logsumexp(-1), torch.where(here, target_logit.detach(), 0)]
    lses, target_logits = gather(torch.stack(own), head.group).unbind(1)
    lse = LogSumExp.apply(logits, lses.logsumexp(0))
    lse = lse + (lse - lse)
    logps = torch.where(here, target_logit, target_logits.sum(0)) - lse
    if not with_entropy:
        return logps, logps.new_empty(0)
    probs = (logits - lse[:, None]).detach().exp()
    return logps, gather(torch.special.entr(probs).sum(-1), head.group).sum(0)
