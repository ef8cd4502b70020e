"""How far a measured share may be off."""

from math import sqrt

Z = 1.959963984540054
"""Of the normal distribution, for 95%."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% interval of a probability, from at least one trial."""
    share = successes / trials
    middle = share + Z**2 / (2 * trials)
    half = Z * sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    low, high = ((middle + side * half) / (1 + Z**2 / trials) for side in (-1, 1))
    # At the ends rounding would leave a little more than nothing, or a little less than all.
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)
