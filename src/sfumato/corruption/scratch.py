"""Synthetic damage of old prints: scratches, folds, dust, stains and torn corners."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from torch import Generator, Tensor

from sfumato.corruption.noise import uniform
from sfumato.errors import OptionError
from sfumato.types import Corrupted

FINE = 3  # marks are drawn this many times larger, then downsampled, for soft edges
THINNEST, WIDEST = 0.8, 8.5  # smallest and largest width of a scratch in pixels
# a mark is fully visible where it changes a pixel by at least SEEN; within GOES_ON pixels of such a
# pixel, it counts as visible even where it has the shade of the picture
SEEN, GOES_ON = 16 / 127.5, 12
HARD = 0.25  # share of the layers whose marks have hard edges, like digital scratches
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Scratches:
    """Marks on a print: scratches, folds, dust, stains and torn corners.

    The corruption is not linear, as the positions of the marks are unknown.

    Parameters
    ----------
    share : float, in (0, 0.5]
        Approximate maximum of the covered share of the picture; the actual share is sampled per
        picture.

    Examples
    --------
    >>> y = Scratches(0.1)(torch.zeros(1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).y
    >>> 0 < float((y != 0).float().mean()) < 0.5
    True
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise OptionError(f"scratches {self.share:g} is not a share between 0 and 0.5")

    def __str__(self) -> str:
        return f"scratches:{self.share:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Damage each picture with random marks."""
        return self.marked(x, generator)[0]

    def marked(self, x: Tensor, generator: Generator | None = None) -> tuple[Corrupted, Tensor]:
        """Return the damaged pictures and the mask of visible marks, (B, 1, H, W) in [0, 1]."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        damaged, covers = [], []
        # a number per picture seeds its marks
        for picture, seed in zip(x, uniform(len(x), x, generator), strict=True):
            rng = np.random.default_rng(int(float(seed) * 2**24))
            cover = torch.zeros(1, *size).to(x)
            for layer in self._layers(size, rng):
                opacity = torch.from_numpy(layer.opacity).to(x)
                change = opacity * (layer.shade - picture)
                picture = picture + change
                seen = (change.abs().amax(dim=0) / SEEN).clamp_max(1)
                near = ndimage.maximum_filter(seen.cpu().numpy(), 2 * GOES_ON + 1)
                cover = torch.maximum(cover, torch.from_numpy(near * layer.cover).to(x))
            damaged.append(picture)
            covers.append(cover)
        return Corrupted(torch.stack(damaged), torch.zeros(len(x), device=x.device)), torch.stack(
            covers
        )

    def _layers(self, size: tuple[int, int], rng: np.random.Generator) -> Iterator[_Layer]:
        """Yield one to three layers; the marks of one layer have one shade."""
        count = int(rng.integers(1, 4))
        area = self.share * rng.uniform(0.1, 1) * size[0] * size[1]
        for _ in range(count):
            yield _Layer.drawn(size, area / count, rng)


@dataclass(frozen=True)
class _Layer:
    """Marks of one shade.

    Attributes
    ----------
    cover : array, (H, W), in [0, 1]
        Share of each pixel that marks cover.
    opacity : array, (H, W), in [0, 1]
        Weight with which `shade` replaces each pixel; at most `cover`, as marks may be faint.
    shade : float, in [-1, 1]
    """

    cover: Plane
    opacity: Plane
    shade: float

    @classmethod
    def drawn(cls, size: tuple[int, int], area: float, rng: np.random.Generator) -> _Layer:
        tall, wide = size
        canvas = Image.new("L", (wide * FINE, tall * FINE))
        pen = _Pen(ImageDraw.Draw(canvas), canvas.size, rng)
        kinds = [pen.scratch, pen.scratch, pen.dust, pen.fold, pen.stain, pen.corner]
        often = np.array([0.4, 0.25, 0.2, 0.07, 0.05, 0.03])
        drawn = 0.0
        while drawn < area:
            mark = kinds[int(rng.choice(len(kinds), p=often))]
            drawn += mark() / FINE**2
        if rng.random() < 0.4:
            canvas = canvas.filter(ImageFilter.GaussianBlur(FINE * rng.uniform(0.2, 1.0)))
        shrunk = canvas.resize((wide, tall), Image.Resampling.BOX)
        cover = np.asarray(shrunk, np.float32) * np.float32(1 / 255)
        if rng.random() < HARD:
            cover = (cover > 0.5).astype(np.float32)
        strength = 1.0 if rng.random() < 0.6 else rng.uniform(0.5, 1.0)
        worn = 1 - (rng.random() < 0.35) * rng.uniform(0.2, 0.6) * _clouds(size, rng)
        return cls(cover, cover * np.float32(strength) * worn, _shade(rng))


class _Pen:
    """Draws marks on a canvas that is FINE times as large as the picture.

    Each method returns the area of its mark on the canvas.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
    ) -> None:
        self.draw, self.size, self.rng = draw, size, rng

    def scratch(self) -> float:
        """Draw a line that wanders or bends."""
        rng = self.rng
        step = FINE * rng.uniform(5, 25)
        bend = 0.0 if rng.random() < 0.5 else rng.normal(0, 0.15)
        points = self._walk(
            rng.uniform(0, self.size),
            int(rng.integers(2, 24)),
            step,
            bend,
            shake=rng.choice([0.02, 0.12]),
        )
        return self._line(points, self._width())

    def fold(self) -> float:
        """Draw a crease from one side to the other."""
        rng = self.rng
        across, step = rng.random() < 0.5, FINE * rng.uniform(8, 20)
        wide, tall = self.size
        start = (
            np.array([0.0, rng.uniform(0, tall)])
            if across
            else np.array([rng.uniform(0, wide), 0.0])
        )
        angle = (0.0 if across else math.pi / 2) + rng.normal(0, 0.1)
        points = self._walk(
            start, int(max(self.size) / step) + 2, step, 0.0, shake=0.03, angle=angle
        )
        return self._line(points, self._width())

    def dust(self) -> float:
        """Draw some specks, and sometimes a hair."""
        rng, area = self.rng, 0.0
        for _ in range(rng.integers(1, 8)):
            at, width = rng.uniform(0, self.size), self._width()
            wide, tall = width * rng.uniform(0.7, 2, 2)
            self.draw.ellipse((*at, *(at + (wide, tall))), fill=self._ink())
            area += float(wide * tall)
        if rng.random() < 0.3:
            curl = rng.choice([-1, 1]) * rng.uniform(0.03, 0.3)
            hair = self._walk(rng.uniform(0, self.size), 12, FINE * 3.0, curl, shake=0.1)
            area += self._line(hair, FINE * rng.uniform(0.7, 1.5))
        return area

    def stain(self) -> float:
        """Draw a blotch with an uneven rim."""
        rng = self.rng
        at, radius = rng.uniform(0, self.size), FINE * rng.uniform(3, 14)
        return self._blob(at, radius, np.linspace(0, 2 * math.pi, 18, endpoint=False))

    def corner(self) -> float:
        """Draw a torn corner or a torn piece of the border."""
        rng = self.rng
        at = np.array([rng.choice([0, side]) for side in self.size], float)
        if rng.random() < 0.5:
            at[int(rng.integers(2))] = rng.uniform(0, max(self.size))
        return (
            self._blob(
                at, FINE * rng.uniform(4, 16), np.linspace(0, 2 * math.pi, 24, endpoint=False)
            )
            / 2
        )

    def _walk(
        self,
        at: NDArray[np.float64],
        count: int,
        step: float,
        bend: float,
        shake: float,
        angle: float | None = None,
    ) -> list[tuple[float, ...]]:
        """Return points one step apart, on a path with a steady bend and random changes of
        direction.
        """
        rng = self.rng
        angle = rng.uniform(0, 2 * math.pi) if angle is None else angle
        points = [tuple(at)]
        for _ in range(count):
            angle += bend + rng.normal(0, shake)
            at = at + step * np.array([math.cos(angle), math.sin(angle)])
            points.append(tuple(at))
        return points

    def _line(self, points: list[tuple[float, ...]], width: float) -> float:
        length = sum(math.dist(a, b) for a, b in zip(points, points[1:], strict=False))
        self.draw.line(points, fill=self._ink(), width=max(1, round(width)), joint="curve")
        if self.rng.random() < 0.5 and len(points) > 3:  # thinner towards an end
            self.draw.line(
                points[len(points) // 2 :],
                fill=self._ink(),
                width=max(1, round(1.3 * width)),
                joint="curve",
            )
        return length * width

    def _blob(self, at: NDArray[np.float64], radius: float, angles: NDArray[np.float64]) -> float:
        radii = radius * self.rng.uniform(0.6, 1.4, len(angles))
        rim = at[:, None] + radii * np.stack([np.cos(angles), np.sin(angles)])
        self.draw.polygon([tuple(point) for point in rim.T], fill=self._ink())
        return math.pi * radius**2

    def _width(self) -> float:
        return FINE * math.exp(self.rng.uniform(math.log(THINNEST), math.log(WIDEST)))

    def _ink(self) -> int:
        return 255 if self.rng.random() < 0.7 else int(self.rng.integers(150, 256))


def _shade(rng: np.random.Generator) -> float:
    """Sample a shade: bright as bare paper, dark as ink, or in between."""
    bright, dark, between = rng.uniform(0.4, 1), rng.uniform(-1, -0.5), rng.uniform(-0.5, 0.4)
    return float(rng.choice([bright, dark, between], p=[0.36, 0.5, 0.14]))


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Sample smooth noise (H, W) in [0, 1]."""
    small = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8))
    return np.asarray(
        small.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float32
    ) / np.float32(255)
