"""What is measured of a damaged photo where the user says "auto": how noisy it is, and how hard it
was compressed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import ndtr

from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.tasks.restore.options import RestoreOptions

# of the frame [-1, 1]: values so near its ends are those that noise was cut off from
CLIPPED = 0.98
SAMPLE = 2048  # side of the part in which noise is measured
# side, least stride, and how many are enough; smaller ones where there are too few
PATCHES = ((8, 3, 4000), (5, 2, 1500))
MOST, ROUNDS = 40_000, 6
EACH = 6  # patches for each value of one, at least, or their covariance says little
# distance of a patch from black and white, in deviations of the noise: as far as there are enough
MARGINS = (2.5, 2.0, 1.5, 1.0, 0.5, 0.0)
CLEAR = 2.0  # at this distance hardly any noise is cut off


def noise_level(photo: Photo, options: RestoreOptions) -> float:
    """Deviation of the noise in the frame of [-1, 1]."""
    if options.denoise is None:
        return 0.0
    if options.denoise != "auto":
        return options.denoise / 127.5
    wide, tall = photo.size
    top, left = max(0, tall - SAMPLE) // 2, max(0, wide - SAMPLE) // 2
    x = photo.frame(slice(top, top + SAMPLE), slice(left, left + SAMPLE))
    x = x[:1] if photo.gray else x  # three equal channels are one measurement
    seen = (
        None if photo.alpha is None else photo.alpha[top : top + SAMPLE, left : left + SAMPLE] > 0
    )
    if photo.quality is None:
        return estimate_noise(x, seen)
    level = flattest_noise(x)
    if min(x.shape[-2:]) > 1:
        # JPEG takes the finest noise out of flat parts; at half the size it is still there, half as
        # strong.
        half = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None], 2)[0].numpy()
        level = max(level, 2 * flattest_noise(half))
    return level


def quality(photo: Photo, options: RestoreOptions) -> int:
    """JPEG quality that the network is told; 100 is not compressed."""
    if options.dejpeg is None:
        return 100
    if options.dejpeg != "auto":
        return options.dejpeg
    if photo.quality is None:
        raise OptionError(
            "the picture is no JPEG now, so its quality is not known; give --dejpeg a number, 1 "
            "to 100"
        )
    return photo.quality


def estimate_noise(x: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> float:
    """Deviation of white noise in a picture (C, H, W), from its patches.

    The patches of a photograph lie near a subspace; across it there is noise alone, and the
    smallest eigenvalues of their covariance are its variance (Chen, Zhu & Heng 2015, ICCV,
    algorithm 1). Where noise was cut off at black or white it is too small: patches are taken from
    the middle of the range, and what is still missing is made up for by the variance that a clipped
    normal value has.

    Parameters
    ----------
    x : array, (C, H, W)
    seen : array of bool, (H, W), optional
        Where the picture is not clear.
    """
    low, high = float(x.min()), float(x.max())
    level: float | None = None
    for side, stride, enough in PATCHES:
        found = _patches(x, side, stride, seen)
        least = EACH * found[0].size if len(found) else 1
        if len(found) < least:
            continue
        mean = found.mean(axis=2)
        # from the ends of the range, of the channel that is nearest
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
            level = _across(found[chosen]) / math.sqrt(
                float(_kept_variance(mean[chosen], before, low, high).mean())
            )
            if abs(level - before) < 0.005 * before:
                break
        if margin >= CLEAR:
            break
    return flattest_noise(x) if level is None else level


def _patches(
    x: NDArray[Any], side: int, stride: int, seen: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Patches (N, C, side * side) of a picture, evenly spaced; those with a clear pixel are left
    out.
    """
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
    """Deviation in the directions in which patches (N, ...) vary least: as many as have a mean that
    is their median.
    """
    values = np.linalg.eigvalsh(np.cov(patches.reshape(len(patches), -1), rowvar=False))
    for count in range(len(values), 0, -1):
        mean = float(values[:count].mean())
        if mean <= np.median(values[:count]):
            break
    return math.sqrt(max(mean, 0.0))


def _kept_variance(mean: NDArray[Any], level: float, low: float, high: float) -> NDArray[Any]:
    """Share of its variance that normal noise keeps where values beyond `low` and `high` are cut
    off.
    """
    a, b = (low - mean) / level, (high - mean) / level

    def density(z: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return found

    below, above = ndtr(a), ndtr(-b)
    first = a * below + density(a) - density(b) + b * above
    second = a * a * below + (1 - below - above) + a * density(a) - b * density(b) + b * b * above
    kept: NDArray[Any] = (second - first**2).clip(0.05, 1)
    return kept


def flattest_noise(x: NDArray[Any]) -> float:
    """Deviation of the finest diagonal differences of a picture (C, H, W) where there is least
    else: for noise that is not white.

    Over blocks, the tenth percentile of their mean square, as flat parts of a picture show its
    noise alone (after Meer, Jolion & Rosenfeld 1990), divided by what it would be for noise by
    chance.
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

    # a white sky shows no noise, whatever the picture has
    clipped = (np.abs(even[..., ::2, ::2]) > CLIPPED).all(axis=0)
    means = blocks(squares)
    telling = means[blocks(clipped) < 0.25]
    means = telling if telling.size >= 4 else means
    # the tenth percentile of a mean of squares, to first order
    by_chance = 1 - 1.28 * math.sqrt(2 / (block**2 * len(x)))
    return float(np.sqrt(np.quantile(means, 0.1) / by_chance))
