"""Measure the noise of a picture with a network that outputs noise levels for each pixel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sfumato.denoiser.restorer import CELL, NoiseMaps

Meter = Callable[[Tensor], NoiseMaps]
"""A picture (1, 3, h, w) in [-1, 1] -> the noise levels of its pixels."""

SEEN = 0.5  # smallest share of usable pixels in a square, unless no square has so many
LARGE, PLACES = 1024, 3  # side of the part that is measured, and tried positions per axis
LEFT = 0.75  # quantile of the levels of the squares that is the level of the noise in a JPEG file
# ratio of the noise at half and at full size from which noise is film grain, otherwise and in a
# JPEG file, which makes white noise softer; white noise: 0.5
SOFT, SOFT_IN_JPEG = 0.57, 0.62
EQUAL = 0.3  # ratio of the noise of channel differences below which noise is equal in all channels


@dataclass(frozen=True)
class Levels:
    """Noise levels of a picture, for values in [-1, 1].

    Attributes
    ----------
    level, coarse, colored : float
        Means over the picture of the levels of :class:`sfumato.denoiser.restorer.NoiseMaps`; areas
        in which the network trusts its estimate have more weight.
    mean : float
        Root mean square of the level over the picture: for noise that depends on brightness.
    left : float
        Upper quartile of the level: for noise in a JPEG file, which JPEG leaves in some areas and
        removes in others.
    """

    level: float
    coarse: float
    colored: float
    mean: float
    left: float

    def shows_grain(self, *, in_jpeg: bool) -> bool:
        """Whether the noise is soft, or equal in all channels."""
        soft = self.coarse > (SOFT_IN_JPEG if in_jpeg else SOFT) * self.level
        return soft or self.colored < EQUAL * self.level


def noise_levels(x: NDArray[np.float32], seen: NDArray[np.bool_], meter: Meter) -> Levels:
    """Measure the noise of a picture (1 or 3, H, W) in [-1, 1].

    Parameters
    ----------
    x : array, (1 or 3, H, W)
    seen : array of bool, (H, W)
        Pixels to use: not fully transparent, and not in or near an area of a single color.
    meter : callable
    """
    part = _part(seen)
    picture = torch.from_numpy(np.ascontiguousarray(x[:, *part]))[None].expand(-1, 3, -1, -1)
    visible = torch.from_numpy(seen[part])[None, None].float()
    maps = meter(picture)
    side = min(CELL, *picture.shape[-2:])
    share = F.avg_pool2d(visible, side)
    usable = share >= min(SEEN, float(share.max()))

    def cells(values: Tensor) -> Tensor:
        """Means over the usable pixels of each usable square."""
        return F.avg_pool2d(values * visible, side)[usable] / share[usable].clamp_min(1e-6)

    trust = cells(maps.trust).softmax(dim=0)
    squares = [cells(level.square()) for level in maps.levels()]
    level, coarse, colored = (float((trust * s).sum().sqrt()) for s in squares)
    # three equal channels tell nothing about grain
    colored = level if len(x) == 1 else colored
    mean, left = squares[0].mean().sqrt(), squares[0].quantile(LEFT).sqrt()
    return Levels(level, coarse, colored, float(mean), float(left))


def _part(seen: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The part of a picture with the most usable pixels, at most `LARGE` pixels wide and high."""
    rows, columns = (
        [
            slice(start, start + LARGE)
            for start in np.linspace(0, max(0, size - LARGE), PLACES).astype(int)
        ]
        for size in seen.shape
    )
    return max(itertools.product(rows, columns), key=lambda part: int(seen[part].sum()))
