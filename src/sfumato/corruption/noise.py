"""Additive and impulse noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sfumato.errors import OptionError
from sfumato.types import Corrupted


def normal(x: Tensor, generator: Generator | None) -> Tensor:
    """Sample standard normal noise like `x`; sampling runs on the generator's device."""
    return torch.randn(
        x.shape, generator=generator, device=generator.device if generator else x.device
    ).to(x)


def uniform(count: int, x: Tensor, generator: Generator | None) -> Tensor:
    """Sample `count` uniform numbers in [0, 1), on the device of `x`."""
    return torch.rand(
        count, generator=generator, device=generator.device if generator else x.device
    ).to(x.device)


@dataclass(frozen=True)
class GaussianNoise:
    """``y = x + sigma n``, with sigma fixed or sampled per picture.

    The corruption is linear: in ``y = A x + noise``, ``A`` is the identity.

    Parameters
    ----------
    low, high : float
        Lowest and highest noise level, for pixels of 0 to 255; both are equal for a fixed level. (A
        level of 255 is a sigma of 2 for pixels in [-1, 1].)

    Examples
    --------
    >>> out = GaussianNoise(25, 25)(torch.zeros(1, 3, 64, 64))
    >>> round(float(out.sigma[0]), 3), bool((out.y.std() - 25 / 127.5).abs() < 0.01)
    (0.196, True)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_levels("noise", self.low, self.high)

    def __str__(self) -> str:
        return f"noise:{_range(self.low, self.high)}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Sample a level per picture and add noise."""
        sigma = _drawn_level(self.low, self.high, x, generator)
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * normal(x, generator), sigma)

    def apply(self, x: Tensor) -> Tensor:
        """Return `x`: without its noise, this corruption changes nothing."""
        return x

    adjoint = pinv = apply


@dataclass(frozen=True)
class FilmGrain:
    """Film grain: white noise that is equal in all channels, blurred by a Gaussian and rescaled.

    After rescaling, its standard deviation is the sampled level. In the linear model
    ``y = A x + noise``, ``A`` is the identity.

    Parameters
    ----------
    low, high : float
        Range of the noise level for pixels of 0 to 255.
    soft : float
        Standard deviation of the blur in pixels.

    Examples
    --------
    >>> n = FilmGrain(25, 25)(torch.zeros(1, 3, 64, 64)).y
    >>> bool((n[:, 0] == n[:, 1]).all()), bool((n.std() - 25 / 127.5).abs() < 0.02)
    (True, True)
    """

    low: float
    high: float
    soft: float = 0.7

    def __post_init__(self) -> None:
        _check_levels("grain", self.low, self.high)
        if not 0.1 <= self.soft <= 10:
            raise OptionError(
                f"grain cannot be blurred by {self.soft:g} pixels; give 0.1 to 10 pixels"
            )

    def __str__(self) -> str:
        return f"grain:{_range(self.low, self.high)}:{self.soft:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Sample a level per picture and add grain."""
        sigma = _drawn_level(self.low, self.high, x, generator)
        reach = math.ceil(3 * self.soft)
        kernel = torch.exp(-(torch.arange(-reach, reach + 1).to(x) ** 2) / (2 * self.soft**2))
        kernel = kernel / kernel.square().sum().sqrt()  # the blurred noise keeps its level
        tall, wide = (n + 2 * reach for n in x.shape[-2:])
        n = normal(x.new_empty(len(x), 1, tall, wide), generator)
        n = F.conv2d(F.conv2d(n, kernel[None, None, None]), kernel[None, None, :, None])
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * n, sigma)

    def apply(self, x: Tensor) -> Tensor:
        """Return `x`: without its noise, this corruption changes nothing."""
        return x

    adjoint = pinv = apply


@dataclass(frozen=True)
class ShotNoise:
    """Shot noise, as in a photo of few photons: the variance is proportional to the light.

    Black pixels have no noise. The corruption is not linear, as the noise depends on the picture.

    Parameters
    ----------
    low, high : float
        Range of the noise level (the root mean square over the whole picture), for pixels of 0 to
        255.

    Examples
    --------
    >>> y = ShotNoise(25, 25)(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 64, 2)).y
    >>> bool((y[..., 0] == -1).all()), bool((y[..., 1].std() - 35.4 / 127.5).abs() < 0.05)
    (True, True)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_levels("shot", self.low, self.high)

    def __str__(self) -> str:
        return f"shot:{_range(self.low, self.high)}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Sample a level per picture and add noise."""
        sigma = _drawn_level(self.low, self.high, x, generator)
        n = self.share(x) * normal(x, generator)
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * n, sigma)

    def share(self, x: Tensor) -> Tensor:
        """Return the noise level of each value of `x`, relative to the level of the whole
        picture.
        """
        light = ((x + 1) / 2).clamp(0, 1)
        return (light / light.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)).sqrt()


def _check_levels(name: str, low: float, high: float) -> None:
    if not 0 <= low <= high <= 255:
        raise OptionError(f"{name} {_range(low, high)} is not a level or range within 0 to 255")


def _drawn_level(low: float, high: float, x: Tensor, generator: Generator | None) -> Tensor:
    return (low + (high - low) * uniform(len(x), x, generator)) / 127.5


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


@dataclass(frozen=True)
class DiffusionNoise:
    """Gaussian noise at the noise level of a random timestep of a diffusion model.

    Parameters
    ----------
    sigmas : Tensor, (T,)
        Noise level of each timestep, in the units of the latents.
    shift : float
        Above 1, noisier timesteps are sampled more often: a uniform u becomes s u / (1 + (s - 1)
        u), where s is the shift (Esser et al. 2024, arXiv:2403.03206, equation 23). At noisy
        timesteps, the text determines the content of the picture.

    Examples
    --------
    >>> sigma = DiffusionNoise(torch.arange(1000.0), shift=4)(torch.zeros(1000, 1, 1, 1)).sigma
    >>> round(float((sigma >= 650).float().mean()), 2)  # without the shift: 0.35
    0.68
    """

    sigmas: Tensor
    shift: float = 1.0

    def __str__(self) -> str:
        return f"diffusion:{len(self.sigmas)}" + (f":{self.shift:g}" if self.shift != 1 else "")

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Sample a timestep per picture, and add noise of its level.

        The timesteps of a batch are evenly spaced before the shift, with a random offset.
        """
        count = len(x)
        # One random number and even spacing give less variance than independent timesteps (Kingma
        # et al. 2021, arXiv:2107.00630, appendix I.1).
        places = (uniform(1, x, generator) + torch.arange(count, device=x.device) / count) % 1
        places = (self.shift * places / (1 + (self.shift - 1) * places)).clamp_max(1 - 1e-6)
        sigma = self.sigmas.to(x.device)[(places * len(self.sigmas)).long()]
        return Corrupted(x + sigma.to(x.dtype)[:, None, None, None] * normal(x, generator), sigma)

    def apply(self, x: Tensor) -> Tensor:
        """Return `x`: without its noise, this corruption changes nothing."""
        return x

    adjoint = pinv = apply


@dataclass(frozen=True)
class SaltAndPepper:
    """Salt-and-pepper noise.

    It is not a known linear operator (:class:`sfumato.types.Linear`): which pixels change is random
    and is not returned.

    Parameters
    ----------
    share : float, above 0, at most 1
        Probability that a pixel becomes black or white in all channels.

    Examples
    --------
    >>> y = SaltAndPepper(0.5)(torch.zeros(1, 3, 32, 32)).y
    >>> sorted(y.unique().tolist())
    [-1.0, 0.0, 1.0]
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise OptionError(f"salt {self.share:g} is not a share between 0 and 1")

    def __str__(self) -> str:
        return f"salt:{self.share:g}"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Replace each pixel with probability `share`, by black or white with equal probability."""
        shape = (len(x), 1, *x.shape[2:])
        draw = torch.rand(
            shape, generator=generator, device=generator.device if generator else x.device
        ).to(x)
        extreme = torch.where(draw < self.share / 2, -torch.ones_like(draw), torch.ones_like(draw))
        return Corrupted(
            torch.where(draw < self.share, extreme, x), torch.zeros(len(x), device=x.device)
        )
