"""Compare colorization from a few hints with Levin et al. 2004.

    python benchmarks/hints.py CBSD68/ [--pictures 16] [--hints 1 3 10 40]

Photos are converted to gray, and the true colors of some random pixels are given as hints. The
benchmark prints the PSNR over all channels, compared with the color photos. Levin's method
(colorization by optimization) uses only the hints. sfumato corrects the colors that a network
estimates, so the PSNR of the estimate without hints is printed, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.sparse.linalg import spsolve

from sfumato import image
from sfumato.data.photo import Photo
from sfumato.metrics import psnr
from sfumato.tasks.restore.color import luminance
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions


def levin(
    gray: NDArray[np.float64], places: NDArray[np.int64], chroma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the chroma (h, w, 3) of colorization by optimization (Levin et al. 2004, equation 1).

    At the K hinted pixels, it is the given chroma; at all other pixels, it is the weighted mean of
    the four neighbors' chroma. The weights are the Gaussian weights of equation 2, with windows of
    3x3 pixels.
    """
    tall, wide = gray.shape
    pixel, light = np.arange(gray.size).reshape(tall, wide), gray.ravel()
    mean = uniform_filter(gray, 3)
    variance = np.maximum(uniform_filter(gray * gray, 3) - mean * mean, 2e-6).ravel()
    first = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
    second = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
    row, column = np.concatenate([first, second]), np.concatenate([second, first])
    weight = np.exp(-((light[row] - light[column]) ** 2) / (2 * variance[row])) + 1e-9
    near = scipy.sparse.coo_array((weight, (row, column)), (gray.size,) * 2).tocsr()
    free = np.ones(gray.size)
    free[places @ (wide, 1)] = 0
    matrix = (
        scipy.sparse.eye_array(gray.size) - scipy.sparse.diags_array(free / near.sum(axis=1)) @ near
    )
    wanted = np.zeros((gray.size, 3))
    wanted[places @ (wide, 1)] = chroma
    return np.asarray(spsolve(matrix.tocsc(), wanted)).reshape(tall, wide, 3)


def main() -> None:
    """Print a row per method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--hints", type=int, nargs="+", default=[1, 3, 10, 40])
    given = parser.parse_args()
    paths = sorted(p for p in given.source.iterdir() if p.suffix.lower() in image.SUFFIXES)
    paths = paths[:: max(1, len(paths) // given.pictures)][: given.pictures]
    networks = RestorationNetworks()
    print(f"{'hints':24s}" + "".join(f"{count:8d}" for count in given.hints))
    scores: dict[str, list[list[float]]] = {}
    for path in paths:
        photo = np.asarray(image.read(path).convert("RGB"))
        tall, wide, _ = photo.shape
        gray = luminance(photo)
        printed = Photo(gray.round().astype(np.uint8)[..., None])
        each: dict[str, list[float]] = {}
        for count in given.hints:
            rng = np.random.default_rng(count)
            places = np.stack([rng.integers(tall, size=count), rng.integers(wide, size=count)], 1)
            colors = photo[places[:, 0], places[:, 1]]
            hints = tuple(
                (int(x), int(y), "#{:02x}{:02x}{:02x}".format(*color))
                for (y, x), color in zip(places, colors, strict=True)
            )
            plain = restore(printed, RestoreOptions(colorize=True), networks).photo.values
            ours = RestoreOptions(colorize=True, hints=hints)
            made = restore(printed, ours, networks).photo.values
            chroma = (colors - gray[places[:, 0], places[:, 1], None]) / 255
            other = gray[..., None] + 255 * levin(gray / 255, places, chroma)
            for name, picture in {
                "sfumato, no hint": plain,
                "Levin et al. 2004": other.clip(0, 255),
                "sfumato": made,
            }.items():
                score = psnr(picture.astype(np.float64), photo.astype(np.float64))
                each.setdefault(name, []).append(score)
        for name, row in each.items():
            scores.setdefault(name, []).append(row)
    for name, rows in scores.items():
        print(f"{name:24s}" + "".join(f"{score:8.2f}" for score in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
