"""What is measured of a damaged photo where the user says "auto": how noisy it is, and how hard it was compressed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.photo import Photo
from sfumato.errors import OptionError

if TYPE_CHECKING:
    from sfumato.tasks.restore import RestoreOptions

CLIPPED = 0.98  # of the frame [-1, 1]: values so near its ends are those that noise was cut off from
SAMPLE = 2048  # side of the part in which noise is measured


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
    level = estimate_noise(x)
    if photo.quality is not None and min(x.shape[-2:]) > 1:
        # JPEG takes the finest noise out of flat parts; at half the size it is still there, half as strong.
        half = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None], 2)[0].numpy()
        level = max(level, 2 * estimate_noise(half))
    return level


def quality(photo: Photo, options: RestoreOptions) -> int:
    """JPEG quality that the network is told; 100 is not compressed."""
    if options.dejpeg is None:
        return 100
    if options.dejpeg != "auto":
        return options.dejpeg
    if photo.quality is None:
        raise OptionError("the picture is no JPEG now, so its quality is not known; give --dejpeg a number, 1 to 100")
    return photo.quality


def estimate_noise(x: NDArray[Any]) -> float:
    """Deviation of white noise in a picture (C, H, W): that of its finest diagonal differences where there is least else.

    Over blocks, the tenth percentile of their mean square, as flat parts of a picture show its noise alone (after Meer,
    Jolion & Rosenfeld 1990), divided by what it would be for noise by chance.
    """
    block, (tall, wide) = 8, (n // 2 * 2 for n in x.shape[-2:])
    if tall < 2 or wide < 2:
        return 0.0
    even = x[..., :tall, :wide]
    squares = np.square((even[..., ::2, ::2] - even[..., ::2, 1::2] - even[..., 1::2, ::2] + even[..., 1::2, 1::2]) / 2).mean(axis=0)
    down, across = (n // block for n in squares.shape)
    if down * across < 4:
        return float(np.sqrt(squares.mean()))

    def blocks(values: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = values[: down * block, : across * block].reshape(down, block, across, block).mean(axis=(1, 3))
        return found

    clipped = (np.abs(even[..., ::2, ::2]) > CLIPPED).all(axis=0)  # a white sky shows no noise, whatever the picture has
    means = blocks(squares)
    telling = means[blocks(clipped) < 0.25]
    means = telling if telling.size >= 4 else means
    by_chance = 1 - 1.28 * math.sqrt(2 / (block**2 * len(x)))  # the tenth percentile of a mean of squares, to first order
    return float(np.sqrt(np.quantile(means, 0.1) / by_chance))
