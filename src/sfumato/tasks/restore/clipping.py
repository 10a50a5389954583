"""Noise whose values were clipped at black or white."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

# largest distance of a true mean beyond the range, in standard deviations of the noise
BEYOND = 3.0


def kept_variance(mean: NDArray[Any], level: float, low: float, high: float) -> NDArray[Any]:
    """Share of its variance that Gaussian noise keeps if values are clipped to `low` and `high`.

    `mean` is the mean after clipping, which lies further inside the range than the true mean.
    """
    whole = np.linspace(low - BEYOND * level, high + BEYOND * level, 1025)
    a, b = (low - whole) / level, (high - whole) / level

    def density(z: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return found

    below, above = ndtr(a), ndtr(-b)
    first = a * below + density(a) - density(b) + b * above
    second = a * a * below + (1 - below - above) + a * density(a) - b * density(b) + b * b * above
    kept: NDArray[Any] = np.interp(mean, whole + level * first, (second - first**2).clip(0.05, 1))
    return kept
