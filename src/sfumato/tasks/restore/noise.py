"""What is measured of a damaged photo where the user says "auto": how noisy it is, and how hard it
was compressed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import ndtr
from torch import Tensor

from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.image import LUMA
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
# side of the patches of like brightness, how many brightnesses, how many patches for each, and
# fewer brightnesses tell nothing
LIGHT_SIDE, LIGHTS, LIGHT_PATCHES, LIGHTS_LEAST = 4, 8, 1000, 4
UNEVEN = 1.6  # so many times stronger in one than in the other it depends on the light
AROUND = 7  # pixels over which brightness is averaged, as a pixel's own is noisy
WEAK = 12.0, 20.0  # for values of 0 to 255: noise that JPEG takes a part of, and that it leaves
GONE = 0.6  # share of it that is left of the finest noise where it counts as gone
BEYOND = 3.0  # deviations beyond the ends of the range that a mean may have been
CLEAR = 2.0  # at this distance hardly any noise is cut off


@dataclass(frozen=True)
class Noise:
    """How noisy a photo is, in the frame of [-1, 1].

    Attributes
    ----------
    level : float
        Its deviation over the picture.
    dark, bright : float
        Where it depends on the light, its deviation at black and at white; the variance between is
        their mean (Foi et al. 2008, equation 5: a part that is always there, and one of photons).
        Both 0 where it does not.
    """

    level: float
    dark: float = 0.0
    bright: float = 0.0

    def at(self, light: NDArray[Any]) -> NDArray[Any]:
        """The deviation at brightnesses in [-1, 1]."""
        if not self.dark + self.bright:
            return np.full_like(light, self.level)
        share = (light.clip(-1, 1) + 1) / 2
        found: NDArray[Any] = np.sqrt((1 - share) * self.dark**2 + share * self.bright**2)
        return found

    def of(self, y: Tensor) -> float | Tensor:
        """The deviation in a noisy picture (1, C, h, w): one number, or one of each pixel (1, 1, h,
        w), by the mean brightness around it.
        """
        if not self.dark + self.bright:
            return self.level
        light = F.avg_pool2d(
            y.mean(dim=1, keepdim=True), AROUND, 1, AROUND // 2, count_include_pad=False
        )
        return torch.from_numpy(self.at(light.numpy())).to(y)

    def said(self) -> dict[str, float]:
        """The two ends for values of 0 to 255, where they differ."""
        if not self.dark + self.bright:
            return {}
        return {
            "sigma_dark": round(self.dark * 127.5, 2),
            "sigma_bright": round(self.bright * 127.5, 2),
        }


def noise_level(photo: Photo, options: RestoreOptions) -> float:
    """Deviation of the noise over a photo in the frame of [-1, 1]."""
    return measured_noise(photo, options).level


def measured_noise(photo: Photo, options: RestoreOptions) -> Noise:
    """The noise of a photo: what the user says, or what is measured."""
    if options.denoise is None:
        return Noise(0.0)
    if options.denoise != "auto":
        return Noise(options.denoise / 127.5)
    wide, tall = photo.size
    top, left = max(0, tall - SAMPLE) // 2, max(0, wide - SAMPLE) // 2
    x = photo.frame(slice(top, top + SAMPLE), slice(left, left + SAMPLE))
    x = x[:1] if photo.gray else x  # three equal channels are one measurement
    seen = (
        None if photo.alpha is None else photo.alpha[top : top + SAMPLE, left : left + SAMPLE] > 0
    )
    if photo.quality is None:
        return signal_dependent_noise(x, seen)
    return Noise(noise_under_jpeg(x))


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
            level = _across(_unclipped(found[chosen], before, low, high))
            if abs(level - before) < 0.005 * before:
                break
        if margin >= CLEAR:
            break
    return flattest_noise(x) if level is None else level


def signal_dependent_noise(x: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> Noise:
    """White noise of a picture (C, H, W), and how it depends on the light.

    Patches of like brightness tell how strong noise is there, and two numbers are fitted to that.
    With these the picture's scale is bent so that its noise is equally strong everywhere (Anscombe
    1948), and its level measured as that of white noise.
    """
    light, levels = _levels_by_light(x, seen)
    even = Noise(estimate_noise(x, seen))
    if len(light) < LIGHTS_LEAST or not levels.all():
        return even
    ends = np.stack([(1 - light) / 2, (1 + light) / 2], axis=1) / levels[:, None] ** 2
    dark, bright = (math.sqrt(v) for v in nnls(ends, np.ones(len(light)))[0])
    if max(dark, bright) < UNEVEN * min(dark, bright):
        return even
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
    """Brightnesses in [-1, 1], and the deviation of noise in patches of about these."""
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


def _unclipped(
    patches: NDArray[np.float32], level: float, low: float, high: float
) -> NDArray[np.float32]:
    """Patches (N, C, n) whose deviation about their means is what it was before values beyond `low`
    and `high` were cut off.
    """
    mean = patches.mean(axis=2, keepdims=True)
    kept = _kept_variance(mean, level, low, high)
    found: NDArray[np.float32] = mean + (patches - mean) / np.sqrt(kept)
    return found


def _kept_variance(mean: NDArray[Any], level: float, low: float, high: float) -> NDArray[Any]:
    """Share of its variance that normal noise keeps where values beyond `low` and `high` are cut
    off; `mean` is that of what is left, which lies further within than that of all was.
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


def noise_under_jpeg(x: NDArray[Any]) -> float:
    """Deviation of noise in a picture (C, H, W) that was compressed, in its luminance: of color
    JPEG leaves less.

    Strong noise is nearly white still. Of weak noise JPEG takes the finest part out of flat parts
    of the picture; at half the size it is still there, half as strong.
    """
    gray = x if len(x) == 1 else np.tensordot(np.array(LUMA, np.float32), x, 1)[None]
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
