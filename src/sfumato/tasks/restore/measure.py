"""Measure the noise and find the JPEG quality of a photo if the option is "auto"."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.tasks.restore.grain import Denoise, flat_level, luma, measure_grain
from sfumato.tasks.restore.level import Levels, Meter, noise_levels
from sfumato.tasks.restore.noise import Noise
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.patch_noise import (
    estimate_noise,
    noise_under_jpeg,
    signal_dependent_noise,
)
from sfumato.tasks.restore.residual import corrected

SAMPLE = 2048  # side of the part in which noise is measured
# noise level for values 0 to 255, at a JPEG quality of 50, from which noise stays white in a JPEG;
# it is proportional to the quantization. The network does not see all of weaker noise: there may be
# more of it by up to HIDDEN times the square root of the quantization, and by a factor of SLACK
STAYS_WHITE, HIDDEN, SLACK = 32.0, 3.3, 1.15
# sides of squares of a single color that show that this color was painted, and where; distance from
# a painted pixel at which noise is measured; smallest number of pixels there
SQUARE, FLAT, AROUND, FEWEST = 16, 5, 8, 1500
# smallest shares of painted pixels, and of pixels with the same luminance, in a page of text
PAINTED, PAPER = 0.2, 0.4
# smallest ratio, for grain, of the noise that a network removes at half the size and the measured
# level there; largest ratio of two measurements of which the mean is taken
CONFIRMED, APART = 0.5, 1.4
HIGHEST = 2.0  # largest noise level, as for the option


def measured_noise(
    photo: Photo, options: RestoreOptions, meter: Meter, denoise: Denoise | None = None
) -> Noise:
    """The noise of a photo, given by the user or measured.

    The noise is measured twice: from the statistics of the picture, and by `meter`, a network. With
    `denoise`, a network for white noise, both measurements are also compared with the noise that
    this network removes.
    """
    if options.denoise is None:
        return Noise(0.0)
    if options.denoise != "auto":
        return Noise(options.denoise / 127.5)
    wide, tall = photo.size
    top, left = max(0, tall - SAMPLE) // 2, max(0, wide - SAMPLE) // 2
    x = photo.opaque().frame(slice(top, top + SAMPLE), slice(left, left + SAMPLE))
    x = x[:1] if photo.gray else x  # three equal channels are one measurement
    seen = _unpainted(x)
    if photo.alpha is not None:
        seen &= photo.alpha[top : top + SAMPLE, left : left + SAMPLE] > 0
    if seen.sum() < min(FEWEST, seen.size):
        return Noise(0.0)
    x, seen = _cropped(x, seen)
    in_jpeg = photo.quality is not None
    if in_jpeg and _is_page(x, seen):
        return Noise(0.0)
    levels = noise_levels(x, seen, meter)
    told = levels if _has_grain(x, seen, levels, denoise, in_jpeg=in_jpeg) else None
    if photo.quality is None:
        found = signal_dependent_noise(x, seen)
        if len(x) == 1 and not found.dark + found.bright:
            # the patches of a single channel leave few directions that contain only noise
            found = Noise(min(found.level, flat_level(x, seen)))
        if denoise is not None:
            found = corrected(x, seen, found, denoise)
        if found.dark + found.bright:
            found = found.scaled(_mean_factor(levels.mean / found.level))
        grain = measure_grain(x, found.level, seen, told)
    else:
        found = _in_jpeg(x, photo.quality, levels, denoise)
        grain = measure_grain(x, estimate_noise(luma(x)), None, told, in_luma=True)
    if grain is not None:
        return Noise(grain.level, grain=grain)
    return found.scaled(min(1.0, HIGHEST / max(found.level, HIGHEST)))


def _unpainted(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a picture (C, H, W) may show noise: not on and around areas of a single color.

    An area with noise does not have a single color, so such an area was painted: it is the paper of
    printed text, a border, a screenshot or a filled box. A color counts as painted if it fills a
    square with sides of `SQUARE` pixels somewhere. Then smaller areas of this color also count as
    painted, such as the paper between letters.
    """
    codes = np.zeros(x.shape[1:], np.int64)
    for channel in x:
        codes = (codes << 16) + np.round((channel + 1) * 32767.5).astype(np.int64)

    def single(side: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = ndimage.maximum_filter(codes, side) == ndimage.minimum_filter(
            codes, side
        )
        return found

    colors = np.unique(codes[single(SQUARE)])
    painted = single(FLAT) & np.isin(codes, colors)
    near: NDArray[np.bool_] = ndimage.maximum_filter(painted, FLAT + 2 * AROUND)
    return ~near


def _cropped(
    x: NDArray[np.float32], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Crop a picture (C, H, W) to the bounding box of `seen`, without a border of one color."""
    rows, columns = ndimage.find_objects(seen.astype(np.uint8))[0]
    return x[:, rows, columns], seen[rows, columns]


def _is_page(x: NDArray[np.float32], seen: NDArray[np.bool_]) -> bool:
    """Whether a picture (C, H, W) from a JPEG file shows mostly paper of a single bright color.

    JPEG changes the paper around letters, so the letters would be taken for noise.
    """
    values = np.round((luma(x) + 1) * 127.5).astype(np.int64)
    bright = np.bincount(values.ravel(), minlength=256)[128:]
    return bool(seen.mean() < 1 - PAINTED and bright.max() > PAPER * values.size)


def _has_grain(
    x: NDArray[np.float32],
    seen: NDArray[np.bool_],
    levels: Levels,
    denoise: Denoise | None,
    *,
    in_jpeg: bool,
) -> bool:
    """Whether a picture (C, H, W) has grain according to the measured `levels`.

    At half the size, grain is nearly white, so a network for white noise must see it there. It does
    not see texture.
    """
    if not levels.shows_grain(in_jpeg=in_jpeg):
        return False
    if denoise is None or min(x.shape[1:]) < 2:
        return denoise is None
    half = F.avg_pool2d(torch.from_numpy(luma(x).mean(axis=0, keepdims=True))[None], 2)[0].numpy()
    visible = F.avg_pool2d(torch.from_numpy(seen)[None].float(), 2)[0].numpy() == 1
    white = corrected(half, visible, Noise(estimate_noise(half, visible)), denoise).level
    return white > CONFIRMED * levels.coarse


def _mean_factor(ratio: float) -> float:
    """Factor from one measurement to the geometric mean of two, given their ratio."""
    return math.sqrt(min(max(ratio, 1 / APART), APART))


def _in_jpeg(
    x: NDArray[np.float32], quality: int, levels: Levels, denoise: Denoise | None
) -> Noise:
    """The noise of a picture (C, H, W) from a JPEG file.

    It is at least the noise in the luminance that a network for white noise sees, and not much
    more.
    """
    if denoise is None:
        return Noise(levels.left)
    found = Noise(noise_under_jpeg(x))
    white = corrected(luma(x), None, found, denoise).level
    steps = quantization(quality)
    weak = max(0.0, 1 - white * 127.5 / (STAYS_WHITE * steps))
    # texture may be mistaken for noise, but not by the network for white noise
    most = SLACK * (1 + HIDDEN * math.sqrt(steps) * weak) * white
    return Noise(max(white, min(levels.left, most)))


def quantization(quality: int) -> float:
    """Quantization steps of a JPEG, relative to quality 50 (the rule of the IJG's encoder)."""
    return 50 / quality if quality < 50 else max(2 - quality / 50, 0.02)


def quality(photo: Photo, options: RestoreOptions) -> int:
    """JPEG quality to give to the network; 100 means not compressed.

    Raises
    ------
    OptionError
        If the quality is to be read from a file that is not a JPEG.
    """
    if options.dejpeg is None:
        return 100
    if options.dejpeg != "auto":
        return options.dejpeg
    if photo.quality is None:
        raise OptionError(
            "the file is not a JPEG, so its JPEG quality is not known; give --dejpeg a number, 1 "
            "to 100"
        )
    return photo.quality
