"""Scratches and dust: what happens to a print in a drawer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Generator, Tensor

from sfumato.corruption.noise import uniform
from sfumato.errors import OptionError
from sfumato.types import Corrupted

FINE = 3  # scratches are drawn this much larger, then shrunk: their edges are soft


@dataclass(frozen=True)
class Scratches:
    """Thin bright or dark lines and specks over a picture. Not linear: where they are is unknown.

    Parameters
    ----------
    share : float, in (0, 0.5]
        About the part of the picture that is covered at most; how much of it is drawn per picture.

    Examples
    --------
    >>> y = Scratches(0.1)(torch.zeros(1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).y
    >>> 0 < float((y != 0).float().mean()) < 0.4
    True
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise OptionError(f"scratches {self.share:g} is not a share between 0 and 0.5")

    def __str__(self) -> str:
        return f"scratches:{self.share:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Scratch each picture in its own way."""
        draws = uniform(len(x), x, generator)  # one number per picture seeds its scratches
        out = []
        for picture, seed in zip(x, draws, strict=True):
            cover, shade = self._drawn((int(x.shape[-2]), int(x.shape[-1])), np.random.default_rng(int(float(seed) * 2**24)))
            opacity = torch.from_numpy(cover).to(x)
            out.append(picture * (1 - opacity) + shade * opacity)
        return Corrupted(torch.stack(out), torch.zeros(len(x), device=x.device))

    def _drawn(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.float32], float]:
        """How opaque the scratches are at each pixel, (H, W), and their shade in [-1, 1]."""
        tall, wide = size
        canvas = Image.new("L", (wide * FINE, tall * FINE))
        pen = ImageDraw.Draw(canvas)
        most = self.share * rng.uniform(0.2, 1) * tall * wide
        area = 0.0
        while area < most:
            width = FINE * math.exp(rng.uniform(math.log(0.7), math.log(4.5)))
            at, shade = rng.uniform(0, (wide * FINE, tall * FINE)), int(rng.integers(140, 256))
            if rng.random() < 0.3:  # a speck
                pen.ellipse((*at, *(at + width * rng.uniform(0.7, 2, 2))), fill=shade)
                area += (width / FINE) ** 2
                continue
            points, angle, step = [tuple(at)], rng.uniform(0, 2 * math.pi), FINE * rng.uniform(6, 30)
            for _ in range(rng.integers(2, 16)):
                angle += rng.normal(0, 0.12)
                at = at + step * np.array([math.cos(angle), math.sin(angle)])
                points.append(tuple(at))
            pen.line(points, fill=shade, width=max(1, round(width)), joint="curve")
            area += len(points) * step / FINE * width / FINE
        cover = np.asarray(canvas.resize((wide, tall), Image.Resampling.BOX), np.float32) * np.float32(1 / 255)
        bright = rng.uniform(0.5, 1) if rng.random() < 0.65 else rng.uniform(-1, -0.6)
        return cover, float(bright)
