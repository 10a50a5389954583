"""Stochastic samplers: each step removes noise and adds some back.

All samplers take `noise`, a function that returns standard normal noise in the shape of its
argument, so the caller controls the random numbers. ``eta`` scales the added noise; with ``eta`` =
0, a sampler is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sfumato.sampler.ode import level, pairs
from sfumato.types import Denoise, Step

Noise = Callable[[Tensor], Tensor]


def split(s: float, t: float, eta: float) -> tuple[float, float]:
    """Split a step from noise level s to t into (down, up), with ``down^2 + up^2 = t^2``.

    A sampler steps to `down` deterministically, then adds noise of standard deviation `up`.

    With eta = 1 this is the posterior of the forward process (Ho et al. 2020, equation 7),
    written for x = x0 + sigma n.
    """
    up = min(t, eta * math.sqrt(max(0.0, t**2 * (s**2 - t**2) / s**2)))
    return math.sqrt(max(0.0, t**2 - up**2)), up


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise = torch.randn_like,
    eta: float = 1.0,
) -> Iterator[Step]:
    """Euler step to the level ``down`` of :func:`split`, then added noise.

    This equals DDIM(eta) (Song et al. 2021, equation 12); with eta = 1, it equals DDPM.
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        down, up = split(s, t, eta)
        x = denoised + (down / s) * (x - denoised)
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s, x, denoised)


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise = torch.randn_like,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(2S) step to ``down`` of :func:`split`, then added noise.

    It takes two evaluations per step.

    Lu et al. 2022, arXiv:2211.01095, algorithm 1.
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        down, up = split(s, t, eta)
        best = denoised
        if down > 0:
            middle = math.sqrt(s * down)
            half = (middle / s) * x + (1 - middle / s) * denoised
            best = denoise(half, level(middle, x))
        x = (down / s) * x + (1 - down / s) * best
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s, x, denoised)


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise = torch.randn_like,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ for the reverse SDE, with a midpoint in log sigma.

    One Brownian path drives both halves of a step.

    A step takes two evaluations (Lu et al. 2022, arXiv:2211.01095, section 5, as implemented in
    k-diffusion).
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        if t == 0:
            x = denoised
            yield Step(i, s, x, denoised)
            continue
        middle = math.sqrt(s * t)
        first, second = noise(x), noise(x)
        down, up = split(s, middle, eta)
        half = (down / s) * x + (1 - down / s) * denoised + up * first
        ahead = denoise(half, level(middle, x))
        down, up = split(s, t, eta)
        # The Brownian increment over the step is the sum of the increments over its halves.
        whole = (
            first
            if t == s
            else (math.sqrt(s - middle) * first + math.sqrt(middle - t) * second) / math.sqrt(s - t)
        )
        x = (down / s) * x + (1 - down / s) * ahead + up * whole
        yield Step(i, s, x, denoised)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise = torch.randn_like,
    eta: float = 1.0,
    first_order_end: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++(2M) for the reverse SDE, with one evaluation per step.

    Lu et al. 2022, arXiv:2211.01095, section 5.

    `first_order_end` has the same meaning as in :func:`sfumato.sampler.ode.dpmpp_2m`.
    """
    before: Tensor | None = None
    h_before = 0.0
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        if t == 0:
            x = denoised
            yield Step(i, s, x, denoised)
            continue
        h = math.log(s / t)
        decay = math.exp(-h * eta)
        gain = 1 - (t / s) * decay
        best = denoised
        if before is not None and t < s and not (first_order_end and i == len(sigmas) - 2):
            best = denoised + 0.5 * (h / h_before) * (denoised - before)
        x = (t / s) * decay * x + gain * best
        if eta > 0:
            x = x + t * math.sqrt(-math.expm1(-2 * h * eta)) * noise(x)
        if t < s:
            before, h_before = denoised, h
        yield Step(i, s, x, denoised)


def lcm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise = torch.randn_like
) -> Iterator[Step]:
    """Jump to the denoised estimate, then add noise of the next level.

    Luo et al. 2023, arXiv:2310.04378, algorithm 3.

    This sampler is for consistency-distilled models. If the model's estimate is the end of the
    trajectory, one step is exact.
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        x = denoised + t * noise(x) if t > 0 else denoised
        yield Step(i, s, x, denoised)
