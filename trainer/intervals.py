"""How sure a measured rate is."""

import math


def wilson(rate: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a rate over `count` trials; 95% by default. All of [0, 1] without any trial."""
    if count == 0:
        return 0.0, 1.0
    centre = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
