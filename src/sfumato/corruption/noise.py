"""Additive and impulse noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sfumato.types import Corrupted


def normal(x: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal noise like `x`, drawn on the generator's device."""
    return torch.randn(
        x.shape, generator=generator, device=generator.device if generator else x.device
    ).to(x)


def uniform(count: int, x: Tensor, generator: Generator | None) -> Tensor:
    """`count` numbers in [0, 1), on the device of `x`."""
    return torch.rand(
        count, generator=generator, device=generator.device if generator else x.device
    ).to(x.device)


@dataclass(frozen=True)
class GaussianNoise:
    """``y = x + sigma n``; sigma fixed or drawn per picture. Linear, with ``A`` the identity.

    Parameters
    ----------
    low, high : float
        Range of the noise level for pixels of 0 to 255, as the field gives it; equal for a fixed
        level. (A level of 255 is 2 in the frame of [-1, 1].)

    Examples
    --------
    >>> out = GaussianNoise(25, 25)(torch.zeros(1, 3, 64, 64))
    >>> round(float(out.sigma[0]), 3), bool((out.y.std() - 25 / 127.5).abs() < 0.01)
    (0.196, True)
    """

    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"noise:{self.low:g}" if self.low == self.high else f"noise:{self.low:g}-{self.high:g}"
        )

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Draw a level per picture and add noise."""
        sigma = (self.low + (self.high - self.low) * uniform(len(x), x, generator)) / 127.5
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * normal(x, generator), sigma)

    def apply(self, x: Tensor) -> Tensor:
        """The identity."""
        return x

    adjoint = pinv = apply


@dataclass(frozen=True)
class DiffusionNoise:
    """Gaussian noise at every level of a diffusion model: a random time, its sigma.

    Parameters
    ----------
    sigmas : Tensor, (T,)
        Noise level of each time in the frame of the latents.
    shift : float
        Above 1 draws noisier times more often, u becoming s u / (1 + (s - 1) u) (Esser et al. 2024,
        arXiv:2403.03206, equation 23): those at which the text decides what the picture shows.

    Examples
    --------
    >>> sigma = DiffusionNoise(torch.arange(1000.0), shift=4)(torch.zeros(1000, 1, 1, 1)).sigma
    >>> round(float((sigma >= 650).float().mean()), 2)  # of the times, 0.35 of which are as late
    0.68
    """

    sigmas: Tensor
    shift: float = 1.0

    def __str__(self) -> str:
        return f"diffusion:{len(self.sigmas)}" + (f":{self.shift:g}" if self.shift != 1 else "")

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Draw a time per picture, evenly spread over the batch, and add noise of its level."""
        count = len(x)
        # One draw, then even spacing: less variance than independent times (Kingma et al. 2021,
        # arXiv:2107.00630, appendix I.1).
        places = (uniform(1, x, generator) + torch.arange(count, device=x.device) / count) % 1
        places = (self.shift * places / (1 + (self.shift - 1) * places)).clamp_max(1 - 1e-6)
        sigma = self.sigmas.to(x.device)[(places * len(self.sigmas)).long()]
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * normal(x, generator), sigma)

    def apply(self, x: Tensor) -> Tensor:
        """The identity."""
        return x

    adjoint = pinv = apply


@dataclass(frozen=True)
class SaltAndPepper:
    """A share of the pixels becomes black or white, all channels together. Not linear: where is
    unknown.

    Examples
    --------
    >>> y = SaltAndPepper(0.5)(torch.zeros(1, 3, 32, 32)).y
    >>> sorted(y.unique().tolist())
    [-1.0, 0.0, 1.0]
    """

    share: float

    def __str__(self) -> str:
        return f"salt:{self.share:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Hit each pixel with probability `share`; half of the hits are white."""
        shape = (len(x), 1, *x.shape[2:])
        draw = torch.rand(
            shape, generator=generator, device=generator.device if generator else x.device
        ).to(x)
        extreme = torch.where(draw < self.share / 2, -torch.ones_like(draw), torch.ones_like(draw))
        return Corrupted(
            torch.where(draw < self.share, extreme, x), torch.zeros(len(x), device=x.device)
        )
