"""Random numbers are functions of their keys."""

import torch

from advgame.trainer.base.randomness import key_to_seed, uniforms


def test_a_key_decides_its_numbers():
    assert torch.equal(uniforms((0, 3, "attacker"), 5), uniforms((0, 3, "attacker"), 5))
    assert torch.equal(uniforms((0, 3), 5), uniforms((0, 3), 9)[:5])
    assert not torch.equal(uniforms((0, 3), 5), uniforms((0, 4), 5))
    assert len({key_to_seed(*key) for key in ((1, 2), (12,), ("1", 2), (1, "2"))}) == 4


def test_numbers_are_uniform_in_0_to_1():
    draws = uniforms((0,), 10_000)
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.02


def test_seeds_are_the_same_on_every_machine():
    """Runs are reproducible from release to release: these numbers must not change."""
    assert key_to_seed(0, 3, 1, "attacker", 0) == 2883004181579799847
