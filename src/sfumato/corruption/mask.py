"""Masks that hide pixels: random pixels, a box, strokes, text, or a mask file.

In a mask file, the white pixels are hidden. ``known`` is 1 where a pixel is observed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, digits
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.noise import uniform
from sfumato.errors import OptionError, unknown
from sfumato.types import Corrupted, Linear


@dataclass(frozen=True, eq=False)
class Mask:
    """``A x = known * x``: an orthogonal projection, which is its own adjoint and pseudo-inverse.

    Parameters
    ----------
    known : Tensor, (H, W) or (B, 1, H, W)
        1 where observed, 0 where hidden.

    Examples
    --------
    >>> Mask(torch.tensor([[1.0, 0.0]])).apply(torch.ones(1, 3, 1, 2))[0, 0].tolist()
    [[1.0, 0.0]]
    """

    known: Tensor

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Hide the unknown pixels (they become 0, mid-gray)."""
        return Corrupted(self.apply(x), torch.zeros(len(x), device=x.device))

    def apply(self, x: Tensor) -> Tensor:
        """Keep the known pixels."""
        if self.known.shape[-2:] != x.shape[-2:]:
            raise OptionError(
                f"the mask has {_size(self.known)} pixels, the picture {_size(x)}: they must agree"
            )
        return x * self.known.to(x)

    adjoint = pinv = apply


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}"


@dataclass(frozen=True)
class RandomMask:
    """A mask that is sampled anew for every picture.

    Parameters
    ----------
    kind : {"pixels", "box", "strokes", "text"}
    share : float, in (0, 1)
        Share of hidden pixels: the expected share for "pixels", approximate for the other kinds.
    """

    kind: str
    share: float
    shares: ClassVar[dict[str, float]] = {"pixels": 0.5, "box": 0.25, "strokes": 0.2, "text": 0.1}

    def __post_init__(self) -> None:
        if self.kind not in self.shares:
            raise unknown("mask", self.kind, self.shares)
        if not 0 < self.share < 1:
            raise OptionError(f"mask share {self.share:g} is not between 0 and 1")

    def __str__(self) -> str:
        return (
            f"mask:{self.share:g}" if self.kind == "pixels" else f"mask:{self.kind}:{self.share:g}"
        )

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Sample a mask per picture and hide its pixels."""
        return self.draw(x, generator)(x)

    def draw(self, x: Tensor, generator: Generator | None = None) -> Linear:
        """Sample a mask per picture; return the linear operator that hides its pixels."""
        draws = uniform(len(x), x, generator)  # one number per picture seeds its mask
        size = (int(x.shape[-2]), int(x.shape[-1]))
        make = {
            "pixels": self._pixels,
            "box": self._box,
            "strokes": self._strokes,
            "text": self._text,
        }[self.kind]
        masks = [make(size, np.random.default_rng(int(float(d) * 2**24))) for d in draws]
        return Mask(torch.from_numpy(np.stack(masks))[:, None].to(x.device))

    def _pixels(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        return (rng.random(size) >= self.share).astype(np.float32)

    def _box(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        known = np.ones(size, np.float32)
        aspect = math.exp(rng.uniform(-0.5, 0.5))
        tall, wide = (
            max(1, min(n, round(n * math.sqrt(self.share) * a)))
            for n, a in zip(size, (aspect, 1 / aspect), strict=True)
        )
        top, left = rng.integers(0, size[0] - tall + 1), rng.integers(0, size[1] - wide + 1)
        known[top : top + tall, left : left + wide] = 0
        return known

    def _strokes(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        canvas = Image.new("L", (size[1], size[0]), 1)
        pen = ImageDraw.Draw(canvas)
        for _ in range(100):
            points = [
                (float(rng.uniform(0, size[1])), float(rng.uniform(0, size[0])))
                for _ in range(rng.integers(2, 5))
            ]
            pen.line(
                points,
                fill=0,
                width=max(1, round(min(size) * rng.uniform(0.01, 0.06))),
                joint="curve",
            )
            if 1 - np.asarray(canvas).mean() >= self.share:
                break
        return np.asarray(canvas).astype(np.float32)

    def _text(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        canvas = Image.new("1", (size[1], size[0]), 1)
        pen = ImageDraw.Draw(canvas)
        scale = max(1.0, min(size) / 512)  # a large picture has large letters
        for _ in range(1000):
            letters = "".join(rng.choice(list(ascii_letters + digits + " "), rng.integers(3, 20)))
            place = float(rng.uniform(-0.3, 0.8) * size[1]), float(rng.uniform(-0.1, 1) * size[0])
            font = ImageFont.load_default(scale * float(rng.integers(8, 40)))
            pen.text(place, letters, fill=0, font=font)
            if 1 - np.asarray(canvas).mean() >= self.share:
                break
        return np.asarray(canvas).astype(np.float32)


@dataclass(frozen=True)
class PictureMask:
    """A mask from a picture file: white = hidden, black = known, resized to fit."""

    path: str

    def __str__(self) -> str:
        return f"mask:file:{self.path}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Hide the pixels that are white in the file."""
        return self.draw(x)(x)

    def draw(self, x: Tensor, generator: Generator | None = None) -> Linear:
        """Return the linear operator for pictures of the size of `x`."""
        picture = image.read_mask(Path(self.path)).resize(
            (x.shape[-1], x.shape[-2]), Image.Resampling.NEAREST
        )
        return Mask(torch.from_numpy((np.asarray(picture) < 128).astype(np.float32)).to(x.device))
