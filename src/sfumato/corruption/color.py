"""Conversion to gray as a linear operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sfumato.image import LUMA
from sfumato.types import Corrupted


@dataclass(frozen=True)
class Grayscale:
    """Linear operator from RGB pictures to their luminance: (B, 3, H, W) -> (B, 1, H, W).

    Examples
    --------
    >>> Grayscale().apply(torch.ones(1, 3, 2, 2)).shape
    torch.Size([1, 1, 2, 2])
    """

    def __str__(self) -> str:
        return "gray"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Convert to gray."""
        return Corrupted(self.apply(x), torch.zeros(len(x), device=x.device))

    def apply(self, x: Tensor) -> Tensor:
        """Return the weighted sum of red, green and blue."""
        return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread the luminance over the channels by the same weights."""
        return y * y.new_tensor(LUMA)[:, None, None]

    def pinv(self, y: Tensor) -> Tensor:
        """Return the picture of least norm with this luminance."""
        return self.adjoint(y) / sum(w * w for w in LUMA)
