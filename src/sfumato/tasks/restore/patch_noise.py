"""Estimate the noise of a picture from the statistics of its patches, without a network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sfumato.tasks.restore.clipping import kept_variance
from sfumato.tasks.restore.grain import CLIPPED, luma
from sfumato.tasks.restore.noise import Noise, dependence_on_light

# side, smallest stride and sufficient number of patches; if there are too few, the next entry is
# used
PATCHES = ((8, 3, 4000), (5, 2, 1500))
MOST, ROUNDS = 40_000, 6
EACH = 6  # smallest number of patches per value of a patch, for a reliable covariance
# distances of a patch from black and white, in standard deviations of the noise; the first distance
# that leaves enough patches is used
MARGINS = (2.5, 2.0, 1.5, 1.0, 0.5, 0.0)
# side of the patches that are grouped by brightness, largest number of groups, patches per group,
# and smallest number of groups
LIGHT_SIDE, LIGHTS, LIGHT_PATCHES, LIGHTS_LEAST = 4, 8, 1000, 4
# noise levels for values 0 to 255: JPEG removes part of the noise below the first, none above the
# second
WEAK = 12.0, 20.0
GONE = 0.6  # ratio of fine to coarse noise below which the fine noise counts as removed
CLEAR = 2.0  # distance from black and white at which hardly any noise is clipped


def estimate_noise(x: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> float:
    """Estimate the standard deviation of white noise in a picture (C, H, W) from its patches.

    The patches of a photograph lie near a subspace. The directions orthogonal to the subspace
    contain only noise, so the smallest eigenvalues of the patches' covariance equal the noise
    variance (Chen, Zhu & Heng 2015, ICCV, algorithm 1). Clipping at black or white makes this
    estimate too small. Therefore, patches near the middle of the range are used, where little noise
    is clipped. To correct for the rest, the variance of these patches is divided by the share of
    variance that remains when Gaussian noise is clipped.

    Parameters
    ----------
    x : array, (C, H, W)
    seen : array of bool, (H, W), optional
        Pixels to use: not fully transparent, and not in or near an area of a single color.
    """
    low, high = float(x.min()), float(x.max())
    level: float | None = None
    for side, stride, enough in PATCHES:
        found = _patches(x, side, stride, seen)
        least = EACH * found[0].size if len(found) else 1
        if len(found) < least:
            continue
        mean = found.mean(axis=2)
        # distance from the ends of the range, in the nearest channel
        distance = np.minimum(mean - low, high - mean).min(axis=1)
        level = _across(found) if level is None else level
        for _ in range(ROUNDS):
            before, margin = level, 0.0
            for margin in MARGINS:
                if (distance > margin * level).sum() >= enough:
                    break
            chosen = distance > margin * level
            if chosen.sum() < least or level == 0:
                break
            level = _across(_unclipped(found[chosen], before, low, high))
            if abs(level - before) < 0.005 * before:
                break
        if margin >= CLEAR:
            break
    return flattest_noise(x) if level is None else level


def signal_dependent_noise(x: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> Noise:
    """Estimate white noise in a picture (C, H, W), and how it depends on brightness.

    The noise is estimated in groups of patches of similar brightness, and noise levels at black and
    at white are fitted to the estimates. These two levels define a transform of the values after
    which the noise is equally strong everywhere (Anscombe 1948). After this transform, the level is
    estimated as for noise that does not depend on brightness.
    """
    light, levels = _levels_by_light(x, seen)
    even = Noise(estimate_noise(x, seen))
    if len(light) < LIGHTS_LEAST or not levels.all():
        return even
    ends = dependence_on_light(light, levels)
    if ends is None:
        return even
    dark, bright = ends
    found = Noise(0.0, dark, bright)
    grid = np.linspace(-1, 1, 513)
    slope = 1 / np.maximum(found.at(grid), 0.03 * max(dark, bright))
    bent = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(grid))])
    factor = estimate_noise(np.interp(x, grid, bent).astype(np.float32), seen)
    over_all = found.at(x) * factor
    return Noise(float(np.sqrt(np.square(over_all).mean())), factor * dark, factor * bright)


def _levels_by_light(
    x: NDArray[Any], seen: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean brightness, in [-1, 1], of groups of patches, and the noise level of each group."""
    low, high = float(x.min()), float(x.max())
    found = _patches(x, LIGHT_SIDE, 2, seen)
    if not len(found):
        return np.zeros(0), np.zeros(0)
    means = found.mean(axis=2)
    light = means.mean(axis=1)
    parts = max(1, min(LIGHTS, len(found) // LIGHT_PATCHES))
    edges = np.quantile(light, np.linspace(0, 1, parts + 1))
    out = []
    for begin, end in itertools.pairwise(edges):
        chosen = (light >= begin) & (light <= end)
        if chosen.sum() < EACH * found[0].size:
            continue
        level = _across(found[chosen])
        for _ in range(ROUNDS):
            if level == 0:
                break
            level = _across(_unclipped(found[chosen], level, low, high))
        out.append((float(light[chosen].mean()), level))
    places, levels = np.array(out).reshape(-1, 2).T
    return places, levels


def _patches(
    x: NDArray[Any], side: int, stride: int, seen: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Evenly spaced patches (N, C, side * side) of a picture, without transparent pixels."""
    if min(x.shape[-2:]) < side:
        return np.zeros((0, len(x), side * side), np.float32)
    stride = max(stride, math.ceil(math.sqrt(math.prod(x.shape[-2:]) / MOST)))
    windows = sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    found = windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(x), side * side)
    if seen is not None:
        found = found[
            sliding_window_view(seen, (side, side))[::stride, ::stride].all(axis=(2, 3)).ravel()
        ]
    return found.astype(np.float32)


def _across(patches: NDArray[np.float32]) -> float:
    """Standard deviation in the directions in which patches (N, ...) vary least.

    These directions belong to the smallest eigenvalues of the covariance. As many eigenvalues as
    possible are used, as long as the mean of these eigenvalues is not above the median.
    """
    values = np.linalg.eigvalsh(np.cov(patches.reshape(len(patches), -1), rowvar=False))
    for count in range(len(values), 0, -1):
        mean = float(values[:count].mean())
        if mean <= np.median(values[:count]):
            break
    return math.sqrt(max(mean, 0.0))


def _unclipped(
    patches: NDArray[np.float32], level: float, low: float, high: float
) -> NDArray[np.float32]:
    """Undo the effect of clipping on the standard deviation of patches (N, C, n).

    The patches are scaled about their means to the standard deviation that they had before values
    beyond `low` and `high` were clipped.
    """
    mean = patches.mean(axis=2, keepdims=True)
    kept = kept_variance(mean, level, low, high)
    found: NDArray[np.float32] = mean + (patches - mean) / np.sqrt(kept)
    return found


def noise_under_jpeg(x: NDArray[Any]) -> float:
    """Estimate the standard deviation of luminance noise in a picture (C, H, W) from a JPEG file.

    JPEG keeps less of the noise in color.

    Strong noise stays nearly white. JPEG removes the finest part of weak noise from flat regions.
    So weak noise is measured in the picture at half the size: JPEG leaves the noise there, but the
    averaging halves its standard deviation.
    """
    gray = luma(x)
    level = estimate_noise(gray)
    if min(gray.shape[-2:]) < 2:
        return level
    half = F.avg_pool2d(torch.from_numpy(gray)[None], 2)[0].numpy()
    coarse = 2 * flattest_noise(half)
    weak = coarse if level < GONE * coarse else min(level, coarse)
    low, high = WEAK
    share = min(1.0, max(0.0, (level * 127.5 - low) / (high - low)))
    return share * level + (1 - share) * weak


def flattest_noise(x: NDArray[Any]) -> float:
    """Estimate noise that is not white, from the flattest blocks of a picture (C, H, W).

    The mean square of the finest diagonal differences is computed for each block. The tenth
    percentile of these mean squares shows only noise, since such blocks are flat (after Meer,
    Jolion & Rosenfeld 1990). This percentile is divided by the value that it has for pure noise
    with variance 1; the square root is the estimated standard deviation.
    """
    block, (tall, wide) = 8, (n // 2 * 2 for n in x.shape[-2:])
    if tall < 2 or wide < 2:
        return 0.0
    even = x[..., :tall, :wide]
    squares = np.square(
        (even[..., ::2, ::2] - even[..., ::2, 1::2] - even[..., 1::2, ::2] + even[..., 1::2, 1::2])
        / 2
    ).mean(axis=0)
    down, across = (n // block for n in squares.shape)
    if down * across < 4:
        return float(np.sqrt(squares.mean()))

    def blocks(values: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = (
            values[: down * block, : across * block]
            .reshape(down, block, across, block)
            .mean(axis=(1, 3))
        )
        return found

    # leave clipped blocks out: a white sky shows no noise
    clipped = (np.abs(even[..., ::2, ::2]) > CLIPPED).all(axis=0)
    means = blocks(squares)
    telling = means[blocks(clipped) < 0.25]
    means = telling if telling.size >= 4 else means
    # the tenth percentile of a mean of squares, to first order
    by_chance = 1 - 1.28 * math.sqrt(2 / (block**2 * len(x)))
    return float(np.sqrt(np.quantile(means, 0.1) / by_chance))
