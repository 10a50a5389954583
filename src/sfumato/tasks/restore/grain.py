"""Measure and remove film grain.

Film grain is noise that is spatially correlated (soft), or equal in all channels.

A network for white noise mistakes soft grain for texture. At half the size, grain is nearly white.
So grain is removed from a copy of half the size first, then the fine part that remains is removed
at full size (a pyramid of two levels, as in Burt & Adelson 1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sfumato.corruption.resample import Downscale, interpolate
from sfumato.image import LUMA
from sfumato.tasks.restore.clipping import kept_variance
from sfumato.tasks.restore.level import EQUAL, Levels

BLOCK = 16  # side of the blocks whose deviation is measured
FLATTEST, FLAT = 0.02, 0.1  # shares of the blocks, ordered by deviation, that show the noise
# deviation of the flattest blocks, relative to the noise level, by the ratio of the noise at half
# and at full size: the softer the noise, the more blocks differ by chance (measured on noise alone,
# and raised by 0.06 for the texture of photos)
BY_CHANCE = ((0.5, 0.6, 0.75, 0.86, 0.92), (0.97, 0.96, 0.9, 0.82, 0.7))
FEWEST, MOST = 100, 4000  # smallest number of blocks, and largest one per grid
CLIPPED = 0.98  # absolute value from which pixels count as clipped
# largest shares of a block that may be clipped: the first that leaves enough blocks is used
MAY_CLIP = 0.05, 0.2
USABLE = 0.05  # smallest share of the blocks: where paper is clipped, only letters are left
# largest ratio of the deviations of the flat and of the flattest blocks: it is close to 1 for noise
# and larger for texture
LARGEST_RATIO = 1.4
# largest excess kurtosis of the values in flat blocks: it is 0 for normal noise, and at least 0.7
# for pictures that show nothing but grass or gravel
TAILS = 0.4
ROUNDS = 3  # number of corrections for clipping
LEAST = 3 / 127.5  # level below which no grain is reported
# largest share of the level of grain that an estimate of white noise finds, in gray and in color;
# in color it is smaller, since differences of the channels contain no grain
HIDDEN_GRAY, HIDDEN_COLOR = 0.6, 0.35
SOFT = 0.56  # level at half the size, relative to the level, from which noise is soft; white: 0.5
STRONGER = 1.15  # factor of the levels that the network gets: grain is more regular than noise

Denoise = Callable[[Tensor, float | Tensor], Tensor]
"""``(y, level) -> restored``: a picture (1, 3, h, w), and one level or a map (1, 1, h, w)."""


@dataclass(frozen=True)
class Grain:
    """Grain: non-white noise, measured in a photo. Levels are for values in [-1, 1].

    Attributes
    ----------
    level : float
        Standard deviation in each channel.
    coarse : float
        Standard deviation at half the size.
    gray : bool
        Whether the noise is equal in all channels, so that it does not change the color.
    """

    level: float
    coarse: float
    gray: bool

    @property
    def soft(self) -> bool:
        """Whether the noise has a larger share of low frequencies than white noise."""
        return self.coarse > SOFT * self.level


def flat_level(x: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> float:
    """Estimate the level of any kind of noise in a picture (C, H, W) from its flattest blocks.

    The level is too high if the picture has no flat part; see :func:`measure_grain`. It is infinite
    if there are too few blocks.
    """
    deviations = _deviations(_blocks(x, seen))
    if len(deviations) < FEWEST:
        return math.inf
    return float(np.quantile(deviations.mean(axis=1), FLATTEST)) / BY_CHANCE[1][0]


def measure_grain(
    x: NDArray[Any],
    white: float,
    seen: NDArray[np.bool_] | None = None,
    told: Levels | None = None,
    *,
    in_luma: bool = False,
) -> Grain | None:
    """Measure the grain of a picture (C, H, W) with values in [-1, 1].

    The result is None if there is no grain, or if there are too few flat parts to tell.

    Parameters
    ----------
    x : array, (C, H, W)
    white : float
        Noise level that was estimated as if the noise were white. For grain, this estimate is too
        low, which is how grain is recognized.
    seen : array of bool, (H, W), optional
        Pixels to use: not fully transparent, and not in or near an area of a single color.
    told : Levels, optional
        Levels measured by a network that sees grain. They need no flat parts. If the flat parts
        show grain, too, the level is the geometric mean of both measurements.
    in_luma : bool
        Measure the noise in the luminance, since JPEG removes much of the noise in color. `white`
        must then be measured in the luminance, too.
    """
    colors = _blocks(x, seen)
    if len(colors) < FEWEST:
        return None
    blocks = luma(colors) if in_luma else colors
    order = _unclipped(_deviations(blocks).mean(axis=1), blocks.mean(axis=(1, 2, 3)))
    low, high = np.quantile(order, (FLATTEST, FLAT))
    flattest = order <= np.quantile(order, 2 * FLATTEST)
    flat = blocks[flattest]
    half = flat.reshape(*flat.shape[:2], BLOCK // 2, 2, BLOCK // 2, 2).mean(axis=(3, 5))
    share = float(_deviations(half).mean() / _deviations(flat).mean().clip(1e-6))
    if share > BY_CHANCE[0][-1]:
        return None  # too soft for grain
    level = float(low / np.interp(share, *BY_CHANCE))
    hidden = HIDDEN_GRAY if blocks.shape[1] == 1 else HIDDEN_COLOR
    shown = level >= LEAST and white <= hidden * level and high <= LARGEST_RATIO * low
    if not (shown or told) or _kurtosis(blocks[order <= high]) > TAILS:
        return None
    differences = _deviations(np.diff(colors[flattest], axis=1)) if len(x) > 1 else np.zeros(1)
    gray = bool(differences.mean() < EQUAL * level)
    if told is None:
        return Grain(level, share * level, gray)
    level = math.sqrt(level * told.level) if shown else told.level
    gray = len(x) == 1 or told.colored < EQUAL * told.level
    return Grain(level, level * told.coarse / told.level, gray) if level >= LEAST else None


def remove_grain(denoise: Denoise, y: Tensor, grain: Grain) -> Tensor:
    """Remove grain from a picture (1, C, H, W) with a network for white noise.

    Parameters
    ----------
    denoise : callable
        Takes a picture (1, C, h, w) and the level of the noise; returns the restored picture.
    y : Tensor, (1, C, H, W)
    grain : Grain
    """
    if grain.gray and y.shape[1] > 1:
        gray = y.mean(dim=1, keepdim=True)
        made = _on_two_scales(denoise, gray.expand_as(y), grain)
        return y - gray + made.mean(dim=1, keepdim=True)
    return _on_two_scales(denoise, y, grain)


def _on_two_scales(denoise: Denoise, y: Tensor, grain: Grain) -> Tensor:
    if not grain.soft:
        return denoise(y, grain.level)
    tall, wide = y.shape[-2:]
    y = F.pad(y, (0, wide % 2, 0, tall % 2), mode="replicate")
    small = Downscale(2).apply(y)
    coarse = denoise(small, STRONGER * grain.coarse)
    size = int(y.shape[-2]), int(y.shape[-1])
    y = y + interpolate(coarse - small, size)
    fine = math.sqrt(grain.level**2 - grain.coarse**2)
    return denoise(y, STRONGER * fine)[..., :tall, :wide]


def _blocks(x: NDArray[Any], seen: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Evenly spaced blocks (N, C, BLOCK, BLOCK), without clipped and transparent ones."""
    useless = (np.abs(x) > CLIPPED).mean(axis=0)
    if seen is not None:
        useless[~seen] = 1
    parts = []
    for start in (0, BLOCK // 2):
        part = np.concatenate([x, useless[None]])[:, start:, start:]
        down, across = (n // BLOCK for n in part.shape[1:])
        part = part[:, : down * BLOCK, : across * BLOCK]
        part = part.reshape(len(part), down, BLOCK, across, BLOCK)
        rows = part.transpose(1, 3, 0, 2, 4).reshape(-1, len(part), BLOCK, BLOCK)
        parts.append(rows[:: math.ceil(len(rows) / MOST) or 1])
    blocks = np.concatenate(parts)
    lost, blocks = blocks[:, -1].mean(axis=(1, 2)), blocks[:, :-1]
    strict, loose = MAY_CLIP
    enough = (lost < strict).sum() >= FEWEST
    chosen: NDArray[Any] = blocks[lost < (strict if enough else loose)]
    return chosen if len(chosen) >= USABLE * len(blocks) else blocks[:0]


def luma(x: NDArray[Any]) -> NDArray[Any]:
    """Luminance (..., 1, H, W) of pictures (..., C, H, W)."""
    if x.shape[-3] == 1:
        return x
    found = np.tensordot(x, np.array(LUMA, x.dtype), (-3, 0))
    return np.expand_dims(found, -3)


def _deviations(blocks: NDArray[Any]) -> NDArray[Any]:
    """Standard deviation (N, C) of each block around a plane that is fitted to it."""
    squares = np.square(_around_plane(blocks)).sum(axis=(2, 3))
    found: NDArray[Any] = np.sqrt(squares / (blocks.shape[-1] ** 2 - 3))
    return found


def _unclipped(deviations: NDArray[Any], means: NDArray[Any]) -> NDArray[Any]:
    """Undo the effect of clipping on the deviations (N,) of blocks with the given means (N,)."""
    found = deviations
    for _ in range(ROUNDS):
        level = float(np.quantile(found, FLATTEST))
        if level == 0:
            break
        found = deviations / np.sqrt(kept_variance(means, level, -1.0, 1.0))
    return found


def _kurtosis(blocks: NDArray[Any]) -> float:
    """Excess kurtosis of the differences between blocks and the planes fitted to them.

    The differences of each block are scaled to standard deviation 1 first.
    """
    apart = _around_plane(blocks)
    spread = apart.std(axis=(2, 3), keepdims=True).clip(1e-6)
    return float(np.square(np.square(apart / spread)).mean() - 3)


def _around_plane(blocks: NDArray[Any]) -> NDArray[Any]:
    """Differences of blocks (N, C, h, w) from planes that are fitted to them."""
    side = blocks.shape[-1]
    slope = np.arange(side) - (side - 1) / 2
    apart: NDArray[Any] = blocks - blocks.mean(axis=(2, 3), keepdims=True)
    scale = side * np.square(slope).sum()
    for ramp in (slope[:, None], slope[None, :]):
        apart = apart - (apart * ramp).sum(axis=(2, 3), keepdims=True) / scale * ramp
    return apart
