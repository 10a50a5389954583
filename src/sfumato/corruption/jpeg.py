"""JPEG compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.noise import uniform
from sfumato.errors import OptionError
from sfumato.types import Corrupted


@dataclass(frozen=True)
class JPEG:
    """JPEG compression.

    The quality is sampled per picture from `low` to `high`; if both are equal, it is fixed.

    The corruption is not linear.

    Parameters
    ----------
    low, high : int, 1 to 100
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high <= 100:
            asked = self.low if self.low == self.high else f"{self.low}-{self.high}"
            raise OptionError(f"JPEG quality {asked} is not within 1 to 100")

    def __str__(self) -> str:
        return f"jpeg:{self.low}" if self.low == self.high else f"jpeg:{self.low}-{self.high}"

    def draw(self, x: Tensor, generator: Generator | None = None) -> JPEG:
        """Sample one quality for all pictures of a batch."""
        quality = self.low + int(uniform(1, x, generator) * (self.high - self.low + 1))
        return JPEG(quality, quality)

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Compress each picture of a batch of RGB or gray pictures."""
        draws = uniform(len(x), x, generator)
        out = []
        for picture, draw in zip(image.to_pictures(x), draws, strict=True):
            stream = io.BytesIO()
            picture.save(
                stream, "JPEG", quality=self.low + int(float(draw) * (self.high - self.low + 1))
            )
            out.append(image.to_tensor(Image.open(stream)))
        return Corrupted(torch.cat(out).to(x), torch.zeros(len(x), device=x.device))
