"""Moving averages of a policy."""

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def track(average: list[Tensor], policy: list[Tensor], decay: float) -> None:
    """Moves the average, in place: average <- decay average + (1 - decay) policy."""
    get_ema_multi_avg_fn(decay)(average, policy, None)
