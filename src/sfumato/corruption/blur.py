"""Gaussian blur as a linear operator."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sfumato.errors import OptionError
from sfumato.types import Corrupted

FLOOR = 1e-4  # smaller gains count as lost; this gain reduces 1.0 to 1/80 of an 8-bit step


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with mirrored borders.

    The blur is diagonal in the cosine basis (Martucci 1994, table 1): frequency k of n has the gain
    ``exp(-(sigma pi k / n)^2 / 2)``. Adjoint and pseudo-inverse are exact in that basis.

    Parameters
    ----------
    sigma : float, in (0, 100]
        Standard deviation of the kernel in pixels.

    Examples
    --------
    >>> bool(torch.allclose(Blur(2).apply(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8)))
    True
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 100:
            raise OptionError(f"blur {self.sigma:g} is not between 0 and 100 pixels")

    def __str__(self) -> str:
        return f"blur:{self.sigma:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Blur."""
        return Corrupted(self.apply(x), torch.zeros(len(x), device=x.device))

    def apply(self, x: Tensor) -> Tensor:
        """Multiply each frequency by its gain."""
        return self._filter(x, inverse=False)

    adjoint = apply

    def pinv(self, y: Tensor) -> Tensor:
        """Divide each frequency by its gain; frequencies with gains of at most 1e-4 become 0."""
        return self._filter(y, inverse=True)

    def _filter(self, x: Tensor, *, inverse: bool) -> Tensor:
        (rows, high), (columns, wide) = (_waves(int(n), self.sigma) for n in x.shape[-2:])
        gain = high[:, None] * wide
        gain = torch.where(gain > FLOOR, 1 / gain if inverse else gain, 0.0)
        rows, columns, gain = (t.to(x.device) for t in (rows, columns, gain))
        spectrum = (rows @ x.double() @ columns.T) * gain
        return (rows.T @ spectrum @ columns).to(x.dtype)


@functools.lru_cache(maxsize=4)
def _waves(size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the orthonormal DCT-II matrix (size, size), and the gain of each frequency (size,)."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (n + 0.5) * k) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis, torch.exp(-((sigma * math.pi * k[:, 0] / size) ** 2) / 2)
