"""Random numbers as pure functions of what they are for, so that no generator's state has to be saved.

A draw depends on its key alone (the run's seed, the batch, the player, the sample): not on the batch that a sequence
was sampled in, on the number of processes, or on what was drawn before.
"""

import hashlib

import torch
from torch import Tensor

Key = tuple[int | str, ...]
"""What a draw is for, such as (run seed, batch, game, "attacker", sample)."""


def key_to_seed(*key: int | str) -> int:
    """A 63-bit seed from a key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniforms(key: Key, count: int) -> Tensor:
    """[count] float64 in [0, 1), a function of the key alone."""
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(key_to_seed(*key)))
