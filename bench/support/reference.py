"""The training step as it is usually written: our own plain implementation of what AdvGame's published code does.

It pads, forwards chosen and rejected separately, so that the prompt runs twice, sends every position through the LM
head, makes log-softmax and entropies of all logits, and forwards the moving average for the reference, and one more
reference model for metrics only: six forward passes for each player.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from advgame.trainer.records import Pair, Rollout

BETA = 0.1


def published_loss(policy: PreTrainedModel, reference: PreTrainedModel, pairs: list[Pair]) -> Tensor:
    """The mean DPO loss, with its graph."""
    chosen, rejected, entropy = _both(policy, pairs)
    with torch.no_grad():
        reference_chosen, reference_rejected, _ = _both(reference, pairs)
    margins = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(BETA * margins).mean() + 0.0 * entropy  # a regulariser of weight 0, as in the paper's configs


@torch.no_grad()
def published_metrics(reference: PreTrainedModel, pairs: list[Pair]) -> Tensor:
    """[2] mean log-probs of chosen and rejected under another reference model: logged, and no part of the gradient."""
    chosen, rejected, _ = _both(reference, pairs)
    return torch.stack([chosen, rejected]).mean(1)


def _both(model: PreTrainedModel, pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs of the chosen [N], of the rejected [N], entropy of the chosen)."""
    chosen, entropy = _logps(model, [pair.chosen for pair in pairs], with_entropy=True)
    rejected, _ = _logps(model, [pair.rejected for pair in pairs], with_entropy=False)
    return chosen, rejected, entropy


def _logps(model: PreTrainedModel, rollouts: list[Rollout], with_entropy: bool) -> tuple[Tensor, Tensor]:
    """Through the model's own forward: all logits of a padded batch."""
    ids, attention_mask, mask = padded(rollouts, model.device)
    logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    entropy = logps.new_zeros(())
    if with_entropy:
        shares = logits.softmax(-1)
        entropy = ((logits.logsumexp(-1) - (shares * logits).sum(-1)) * mask).sum() / mask.sum()
    return (logps * mask).sum(-1), entropy


def padded(rollouts: list[Rollout], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids [N, L], attention_mask [N, L], mask [N, L - 1] of what predicts a response token)."""
    width = max(len(rollout.prompt_ids) + len(rollout.token_ids) for rollout in rollouts)
    ids, attention_mask = torch.zeros(2, len(rollouts), width, dtype=torch.int64)
    mask = torch.zeros(len(rollouts), width - 1)
    for row, rollout in enumerate(rollouts):
        prompt, response = rollout.prompt_ids, rollout.token_ids
        length = len(prompt) + len(response)
        ids[row, :length] = torch.tensor(prompt + response)
        attention_mask[row, :length] = 1
        mask[row, len(prompt) - 1 : length - 1] = 1
    return ids.to(device), attention_mask.to(device), mask.to(device)
