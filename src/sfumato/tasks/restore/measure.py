"""Measure the noise and find the JPEG quality of a photo if the option is "auto"."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.tasks.restore.grain import Denoise, flat_level, luma, measure_grain
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
# more of it by up to HIDDEN times the square root of the quantization
STAYS_WHITE, HIDDEN = 32.0, 3.3
HIGHEST = 2.0  # largest noise level, as for the option


def measured_noise(photo: Photo, options: RestoreOptions, denoise: Denoise | None = None) -> Noise:
    """The noise of a photo, given by the user or measured.

    With `denoise`, a network for white noise, the measurement is corrected by what the network
    removes.
    """
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
        found = signal_dependent_noise(x, seen)
        if len(x) == 1 and not found.dark + found.bright:
            # the patches of a single channel leave few directions that contain only noise
            found = Noise(min(found.level, flat_level(x, seen)))
        if denoise is not None:
            found = corrected(x, seen, found, denoise)
        grain = measure_grain(x, found.level, seen)
    else:
        found = _in_jpeg(x, photo.quality, denoise)
        grain = measure_grain(x, estimate_noise(luma(x)), in_luma=True)
    if grain is not None:
        return Noise(grain.level, grain=grain)
    return found.scaled(min(1.0, HIGHEST / max(found.level, HIGHEST)))


def _in_jpeg(x: NDArray[np.float32], quality: int, denoise: Denoise | None) -> Noise:
    """The noise of a picture (C, H, W) from a JPEG file, measured in its luminance."""
    found = Noise(noise_under_jpeg(x))
    if denoise is None:
        return found
    white = corrected(luma(x), None, found, denoise).level
    steps = quantization(quality)
    weak = max(0.0, 1 - white * 127.5 / (STAYS_WHITE * steps))
    # texture raises the estimate from patches, but not the part that the network sees
    most = (1 + HIDDEN * math.sqrt(steps) * weak) * white
    return Noise(max(white, min(found.level, most)))


def quantization(quality: int) -> float:
    """Quantization steps of a JPEG, relative to quality 50 (the rule of the IJG's encoder)."""
    return 50 / quality if quality < 50 else max(2 - quality / 50, 0.02)


def quality(photo: Photo, options: RestoreOptions) -> int:
    """JPEG quality to give to the network; 100 means not compressed."""
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
