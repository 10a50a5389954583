"""Downsampling and upsampling by separate matrices for rows and columns: ``A x = R x C'``."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato.corruption.noise import uniform
from sfumato.errors import OptionError, unknown
from sfumato.types import Corrupted

FACTORS = (1.5, 8.0)


@dataclass(frozen=True)
class Downscale:
    """Downsampling by `factor` along each side.

    Parameters
    ----------
    factor : float, 1.5 to 8
    kernel : {"bicubic", "average"}
        ``bicubic`` is the antialiased kernel of MATLAB's imresize, which published results use;
        ``average`` is the mean over the covered area.
    size : (int, int), optional
        Height and width of the full picture, for `adjoint` and `pinv`; by default ``floor(small *
        factor)``, where ``small`` is the height or width after downsampling. :meth:`draw` sets the
        size.

    Examples
    --------
    >>> Downscale(2, "average").apply(torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[1.5000]]]])
    """

    factor: float
    kernel: str = "bicubic"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not FACTORS[0] <= self.factor <= FACTORS[1]:
            raise OptionError(
                f"downscale factor {self.factor:g} is not between {FACTORS[0]:g} and {FACTORS[1]:g}"
            )
        if self.kernel not in KERNELS:
            raise unknown("downscale kernel", self.kernel, KERNELS)

    def __str__(self) -> str:
        return (
            f"down:{self.factor:g}"
            if self.kernel == "bicubic"
            else f"down:{self.factor:g}:{self.kernel}"
        )

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Downsample."""
        return Corrupted(self.apply(x), torch.zeros(len(x), device=x.device))

    def draw(self, x: Tensor, generator: Generator | None = None) -> Downscale:
        """Return the same operator, bound to the size of `x`."""
        return Downscale(self.factor, self.kernel, (int(x.shape[-2]), int(x.shape[-1])))

    def apply(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / factor), ceil(W / factor))."""
        rows, columns = (_forward(self.factor, self.kernel, int(n)).to(x) for n in x.shape[-2:])
        return rows @ x @ columns.T

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, *size), by default floor(h * factor) and floor(w * factor)."""
        rows, columns = (_forward(self.factor, self.kernel, n).to(y) for n in self._full(y))
        return rows.T @ y @ columns

    def pinv(self, y: Tensor) -> Tensor:
        """Return the picture of least norm that is downsampled to `y`, computed in float64."""
        rows, columns = (_inverse(self.factor, self.kernel, n) for n in self._full(y))
        return (rows.to(y.device) @ y.double() @ columns.to(y.device).T).to(y.dtype)

    def _full(self, y: Tensor) -> tuple[int, int]:
        tall, wide = (math.floor(n * self.factor + 1e-9) for n in y.shape[-2:])
        return self.size or (tall, wide)


@dataclass(frozen=True)
class RandomDownscale:
    """Downsampling by a factor between `low` and `high`, which is sampled anew for every batch.

    Parameters
    ----------
    low, high : float, 1.5 to 8
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not FACTORS[0] <= self.low <= self.high <= FACTORS[1]:
            raise OptionError(
                f"downscale factors {self.low:g}-{self.high:g} are not between {FACTORS[0]:g} and "
                f"{FACTORS[1]:g}"
            )

    def __str__(self) -> str:
        return f"down:{self.low:g}-{self.high:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Downsample all pictures of a batch by one random factor."""
        return self.draw(x, generator)(x)

    def draw(self, x: Tensor, generator: Generator | None = None) -> Downscale:
        """Sample a factor, adjusted so that the new width is a whole number of pixels.

        The factor is not adjusted if no factor in the range allows this.
        """
        wide = int(x.shape[-1])
        factor = self.low + (self.high - self.low) * float(uniform(1, x, generator))
        least, most = math.ceil(wide / self.high), math.floor(wide / self.low)
        small = min(max(round(wide / factor), least), most)
        return Downscale(wide / small if least <= most else factor).draw(x)


@functools.lru_cache(maxsize=16)
def _forward(factor: float, kernel: str, size: int) -> Tensor:
    return torch.from_numpy(KERNELS[kernel](size, factor))


@functools.lru_cache(maxsize=4)
def _inverse(factor: float, kernel: str, size: int) -> Tensor:
    out: Tensor = torch.linalg.pinv(_forward(factor, kernel, size))
    return out


def average(size: int, factor: float) -> NDArray[np.float64]:
    """Build the matrix (ceil(size / factor), size) that averages over the area of each output
    pixel.
    """
    edges = np.minimum(np.arange(math.ceil(size / factor - 1e-9) + 1) * factor, size)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    out: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return out


def bicubic(size: int, factor: float) -> NDArray[np.float64]:
    """Build the matrix of MATLAB's imresize.

    The kernel is Keys' cubic with a = -1/2 (Keys 1981, equation 15), widened by the factor; borders
    are mirrored.
    """
    out_size = math.ceil(size / factor - 1e-9)
    centers = (np.arange(out_size) + 0.5) * factor - 0.5
    reach = math.ceil(2 * factor) + 1
    places = np.floor(centers)[:, None] + np.arange(-reach, reach + 1)
    return _spread(_folded(places, size), _keys((places - centers[:, None]) / factor), size)


def _spread(places: NDArray[Any], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Build a matrix (outputs, size) from positions (outputs, reach) in 0 to size - 1 and their
    weights.
    """
    out = np.zeros((len(places), size))
    np.add.at(
        out, (np.arange(len(places))[:, None], places), weights / weights.sum(1, keepdims=True)
    )
    return out


def _folded(places: NDArray[Any], size: int) -> NDArray[Any]:
    """Reflect positions outside 0 to size - 1 back into this range.

    This repeats the picture and its mirror image in alternation.
    """
    repeated = places.astype(int) % (2 * size)
    return np.where(repeated < size, repeated, 2 * size - 1 - repeated)


def interpolate(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge (B, C, h, w) to (B, C, *size) by Keys' cubic, as MATLAB's imresize does.

    This is the baseline for trained methods.

    Examples
    --------
    >>> interpolate(torch.ones(1, 1, 4, 4), (6, 8)).shape
    torch.Size([1, 1, 6, 8])
    """
    rows, columns = (
        magnify(int(small), large, 0, large)[1].to(x)
        for small, large in zip(x.shape[-2:], size, strict=True)
    )
    return rows @ x @ columns.T


@functools.lru_cache(maxsize=64)
def magnify(small: int, large: int, start: int, stop: int) -> tuple[slice, Tensor]:
    """Return the part of a signal that is needed for some upsampled values, and their matrix.

    A signal of length `small` is upsampled to length `large`. The values ``start:stop`` of the
    result are the matrix times the values in the returned slice of the signal.

    Examples
    --------
    >>> needed, matrix = magnify(100, 200, 20, 30)
    >>> needed, matrix.shape
    (slice(8, 17, None), torch.Size([10, 9]))
    """
    centers = (np.arange(start, stop) + 0.5) * small / large - 0.5
    places = np.floor(centers)[:, None] + np.arange(-1, 3)
    folded = _folded(places, small)
    first, last = int(folded.min()), int(folded.max()) + 1
    return slice(first, last), torch.from_numpy(
        _spread(folded - first, _keys(places - centers[:, None]), last - first)
    )


def _keys(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    out: NDArray[np.float64] = np.where(t <= 1, near, np.where(t <= 2, far, 0.0))
    return out


KERNELS = {"average": average, "bicubic": bicubic}
