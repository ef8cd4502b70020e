"""Intervals of measured shares."""

import pytest

from advgame.trainer.measure.intervals import wilson


def test_wilson_intervals():
    """Against the two ends that solve (p - share)² = z² p (1 - p) / n."""
    for successes, trials in [(0, 1), (1, 1), (0, 20), (3, 10), (50, 100), (999, 1000)]:
        low, high = wilson(successes, trials)
        share = successes / trials
        assert 0 <= low <= share <= high <= 1 and low < high
        for p in (low, high):
            assert (p - share) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / trials, abs=1e-6)
