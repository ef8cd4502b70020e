"""Pairs -> a padded batch of tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advgame.trainer.pairs import Pair


@dataclass(frozen=True)
class Batch:
    """2N sequences (chosen_0, rejected_0, chosen_1, …) of at most L tokens, T response tokens in all."""

    input_ids: Tensor
    """[2N, L] prompt and response, padded on the right."""
    attention_mask: Tensor
    """[2N, L], 1 on what is not padding."""
    rows: Tensor
    """[T] int64, the sequence of each response token."""
    columns: Tensor
    """[T] int64, the position whose hidden state predicts it."""
    targets: Tensor
    """[T] int64, the response tokens."""
    cu_seqlens: Tensor
    """[2N + 1] int32, where each response begins among the T."""


def collate(pairs: list[Pair], pad_token_id: int, device: torch.device) -> Batch:
    """Chosen and rejected in turn; the response of every sequence holds at least its first token."""
    sequences = []
    for pair in pairs:
        sequences += [(pair.prompt_ids, pair.chosen.token_ids), (pair.prompt_ids, pair.rejected_ids)]
    width = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.full((len(sequences), width), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    rows, columns, targets, lengths = [], [], [], []
    for row, (prompt, response) in enumerate(sequences):
        length = len(prompt) + len(response)
        input_ids[row, :length] = torch.tensor(prompt + response)
        attention_mask[row, :length] = 1
        rows += [row] * len(response)
        columns += range(len(prompt) - 1, length - 1)
        targets += response
        lengths.append(len(response))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    tensors = (input_ids, attention_mask, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))
    return Batch(*(tensor.to(device) for tensor in (*tensors, cu_seqlens)))
