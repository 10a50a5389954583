"""Preconditioning: four coefficients per noise level describe what a network predicts.

All common denoisers have the form ``D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)`` (Karras et
al. 2022, arXiv:2206.00364, equation 7) for ``x = x0 + sigma n``. The six functions in
`PRECONDITIONS` differ only in the coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.errors import unknown


class Coefficients(NamedTuple):
    """The four coefficients per noise level, each (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


@dataclass(frozen=True)
class Times:
    """The discrete timesteps that a network was trained on, and their noise levels.

    Attributes
    ----------
    sigmas : Tensor, (T,), float64, rising
        Noise level at each timestep from 0 to T - 1.
    """

    sigmas: Tensor

    @classmethod
    def from_betas(
        cls,
        kind: str = "scaled_linear",
        start: float = 0.00085,
        end: float = 0.012,
        count: int = 1000,
        *,
        zero_snr: bool = False,
    ) -> Times:
        """Compute the noise levels ``sigma = sqrt((1 - a) / a)`` of a variance-preserving process,
        where a is the cumulative product of 1 - beta.

        Parameters
        ----------
        kind : {"scaled_linear", "linear", "squaredcos_cap_v2"}
            Schedule of the betas; Stable Diffusion's is ``scaled_linear`` from a `start` of 0.00085
            to an `end` of 0.012.
        zero_snr : bool
            Rescale the noise levels so that the picture has (nearly) no signal at the last level
            (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
        """
        if kind == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
        elif kind == "linear":
            betas = torch.linspace(start, end, count, dtype=torch.float64)
        elif kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17
            steps = torch.arange(count + 1, dtype=torch.float64) / count
            bar = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - bar[1:] / bar[:-1]).clamp_max(0.999)
        else:
            raise unknown("beta schedule", kind, ["scaled_linear", "linear", "squaredcos_cap_v2"])
        alphas = torch.cumprod(1 - betas, 0)
        if zero_snr:
            root = alphas.sqrt()
            alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            alphas[-1] = 2.0**-24  # not quite zero, so that sigma stays finite
        return cls(((1 - alphas) / alphas).sqrt())

    def to_time(self, sigmas: Tensor) -> Tensor:
        """Return the fractional timesteps of noise levels.

        They are interpolated in log sigma and clamped to the range 0 to T - 1.
        """
        logs = self.sigmas.log().to(sigmas.device)
        log = sigmas.to(torch.float64).clamp_min(1e-20).log()
        high = torch.searchsorted(logs, log.contiguous()).clamp(1, len(logs) - 1)
        low = high - 1
        part = (log - logs[low]) / (logs[high] - logs[low])
        return (low + part).clamp(0, len(logs) - 1)


ToTime = Callable[[Tensor], Tensor]


def direct(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network maps the unscaled noisy picture to the clean picture: a plain denoising
    autoencoder.
    """
    one = torch.ones_like(sigma)
    return Coefficients(0 * one, one, one, sigma)


def eps(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network predicts the noise (Ho et al. 2020, arXiv:2006.11239, equation 14)."""
    return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), time(sigma))


def v(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network predicts ``(n - sigma x0) / sqrt(1 + sigma^2)`` (Salimans & Ho 2022,
    arXiv:2202.00512, appendix D).
    """
    scale = (1 + sigma**2).rsqrt()
    return Coefficients(scale**2, -sigma * scale, scale, time(sigma))


def x0(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network predicts the clean picture."""
    one = torch.ones_like(sigma)
    return Coefficients(0 * one, one, (1 + sigma**2).rsqrt(), time(sigma))


def edm(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network's input and target have unit variance (Karras et al. 2022, table 1).

    All noise levels have the same effective weight in the loss.
    """
    total = sigma**2 + sigma_data**2
    return Coefficients(
        sigma_data**2 / total,
        sigma * sigma_data * total.rsqrt(),
        total.rsqrt(),
        sigma.clamp_min(1e-20).log() / 4,
    )


def flow(sigma: Tensor, time: ToTime, sigma_data: float) -> Coefficients:
    """The network predicts the velocity ``n - x0`` of a straight path (Liu et al. 2022,
    arXiv:2209.03003, equation 1).

    The path is ``(1 - t) x0 + t n`` with ``t = sigma / (1 + sigma)``; the network
    receives t scaled to 0 to 1000.
    """
    scale = 1 / (1 + sigma)
    return Coefficients(scale, -sigma * scale, scale, 1000 * sigma * scale)


PRECONDITIONS: dict[str, Callable[[Tensor, ToTime, float], Coefficients]] = {
    "direct": direct,
    "eps": eps,
    "v": v,
    "x0": x0,
    "edm": edm,
    "flow": flow,
}
