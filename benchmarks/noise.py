"""Compare the noise level that ``--denoise auto`` measures with the true level.

    python benchmarks/noise.py CBSD68/ [--sigma 5 10 20 30 50] [--pictures 20] [--kind white ...]
        [--remove] [--quality 90] [--gray]

There are five kinds of noise. white: independent in each value. clipped: white noise on photos with
strong contrast, where a tenth of the pixels is black and a tenth is white. jpeg: white noise in a
JPEG file of quality 90 (--quality); the true level is the level of the noise that remains in the
file. grain: gray and soft noise, like film grain. brightness: noise whose variance grows with the
brightness, like photon noise, so dark pixels have nearly no noise. The true level is the standard
deviation over the picture before clipping at black and white. With --remove, the noise is also
removed: once with the measured noise, once with the true level everywhere, and for jpeg once with
the measured noise together with the JPEG artifacts.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from sfumato import image
from sfumato.data import photo as files
from sfumato.data.photo import Photo
from sfumato.data.samples import find
from sfumato.image import LUMA
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.measure import measured_noise
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.stage import noise_network

Values = NDArray[np.float64]
Noisy = tuple[Photo, float]  # the noisy photo, and its true noise level
JPEG = 90
SOFT = 0.7  # standard deviation of the blur for grain, in pixels


def white(clean: Values, sigma: float, random: np.random.Generator) -> Noisy:
    """Add noise that is independent in each value."""
    return as_photo(clean + random.normal(0, sigma, clean.shape)), sigma


def clipped(clean: Values, sigma: float, random: np.random.Generator) -> Noisy:
    """Add white noise to a photo with strong contrast."""
    low, high = np.quantile(clean, (0.1, 0.9))
    hard = ((clean - low) / (high - low) * 255).clip(0, 255)
    return white(hard, sigma, random)


def jpeg(clean: Values, sigma: float, random: np.random.Generator, quality: int = JPEG) -> Noisy:
    """Add white noise and save as JPEG, which loses part of the noise."""

    def saved(values: Values) -> Photo:
        held = io.BytesIO()
        Image.fromarray(as_photo(values).values.squeeze()).save(held, "JPEG", quality=quality)
        return files.read(held.getvalue())

    noisy, plain = saved(clean + random.normal(0, sigma, clean.shape)), saved(clean)
    left = noisy.values.astype(np.float64) - plain.values
    return noisy, float(left.std())


def grain(clean: Values, sigma: float, random: np.random.Generator) -> Noisy:
    """Add soft noise that is equal in all channels."""
    soft = gaussian_filter(random.normal(0, 1, clean.shape[:2]), SOFT)
    return as_photo(clean + (sigma / soft.std() * soft)[..., None]), sigma


def brightness(clean: Values, sigma: float, random: np.random.Generator) -> Noisy:
    """Add noise whose variance grows with the brightness."""
    level = np.sqrt(clean / clean.mean())
    return as_photo(clean + sigma * level * random.normal(0, 1, clean.shape)), sigma


KINDS: dict[str, Callable[[Values, float, np.random.Generator], Noisy]] = {
    "white": white,
    "clipped": clipped,
    "jpeg": jpeg,
    "grain": grain,
    "brightness": brightness,
}


def psnr(made: NDArray[Any], clean: Values) -> float:
    """Return the PSNR in dB, for values of 0 to 255."""
    return float(10 * np.log10(255**2 / np.square(made - clean).mean()))


def as_photo(values: Values) -> Photo:
    """Return values as an 8-bit photo, as a file stores them."""
    return Photo(values.clip(0, 255).round().astype(np.uint8))


def main() -> None:
    """Print a line for each kind and level."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--sigma", type=float, nargs="+", default=[5, 10, 20, 30, 50])
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--quality", type=int, default=JPEG, help="of the kind jpeg")
    parser.add_argument("--gray", action="store_true", help="make the photos gray first")
    given = parser.parse_args()
    clean = [
        np.asarray(image.read(s.read()), np.float64) for s in find(given.source)[: given.pictures]
    ]
    if given.gray:
        clean = [(values @ np.array(LUMA))[..., None] for values in clean]
    options, networks = RestoreOptions(denoise="auto"), RestorationNetworks()
    meter, network = networks.noise_levels, noise_network(networks)
    kinds = {**KINDS, "jpeg": functools.partial(jpeg, quality=given.quality)}
    for kind in given.kind:
        for sigma in given.sigma:
            random = np.random.default_rng(round(sigma))
            ratios, decibels = [], []
            for values in clean:
                photo, level = kinds[kind](values, sigma, random)
                found = measured_noise(photo, options, meter, network)
                ratios.append(found.level * 127.5 / level)
                if given.remove:
                    ways: list[dict[str, Any]] = [{"denoise": "auto"}, {"denoise": level}]
                    ways += [{"denoise": "auto", "dejpeg": "auto"}] if kind == "jpeg" else []
                    made = [restore(photo, RestoreOptions(**way)).photo for way in ways]
                    decibels.append([psnr(one.values, values) for one in made])
            share = np.array(ratios)
            near = int((abs(share - 1) <= 0.1).sum())
            print(
                f"{kind:10} {sigma:4g}: measured level / true level: mean {share.mean():.2f}, "
                f"{share.min():.2f} to {share.max():.2f}; within 10 %: {near} of {len(share)}",
                flush=True,
            )
            if decibels:
                measured, told, *both = np.mean(decibels, axis=0)
                also = f", {both[0]:.2f} dB with the measured noise and --dejpeg" if both else ""
                print(
                    f"  PSNR after removal: {measured:.2f} dB with the measured noise, {told:.2f} "
                    f"dB with the true level{also}"
                )


if __name__ == "__main__":
    main()
