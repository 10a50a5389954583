"""Deterministic samplers: numerical solutions of ``dx/dsigma = (x - D(x; sigma)) / sigma``.

The equation is the probability-flow ODE for ``x = x0 + sigma n`` (Karras et al. 2022,
arXiv:2206.00364, equation 1). Simple samplers come first. All are generators of :class:`Step`; to
cancel, stop iterating.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import OptionError
from sfumato.types import Denoise, Step


def level(sigma: float, x: Tensor) -> Tensor:
    """Return the noise level as a tensor (B,), with one entry per picture of `x`."""
    return (
        torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
        if x.device.type != "mps"
        else x.new_full((len(x),), sigma)
    )


def pairs(sigmas: Tensor) -> list[tuple[int, float, float]]:
    """Return (index, level before, level after) for each step.

    Levels may be equal: with each sampler except ``lcm``, a step between them changes nothing.

    Raises
    ------
    OptionError
        If a level is higher than the level before, or below 0.
    """
    values = [float(s) for s in sigmas]
    steps = [(i, values[i], values[i + 1]) for i in range(len(values) - 1)]
    for _, s, t in steps:
        if not s >= t >= 0:
            raise OptionError(
                f"noise levels must not rise, and must be at least 0; {t:g} follows {s:g}"
            )
    return steps


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """Euler's method, of order 1.

    It equals DDIM with eta = 0 (Song et al. 2021, arXiv:2010.02502, equation 13).
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        x = denoised + (t / s) * (x - denoised)
        yield Step(i, s, x, denoised)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """Heun's method, two evaluations a step (Karras et al. 2022, algorithm 1). Order 2."""
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        slope = (x - denoised) / s
        ahead = x + (t - s) * slope
        if t > 0:
            slope = (slope + (ahead - denoise(ahead, level(t, x))) / t) / 2
            ahead = x + (t - s) * slope
        x = ahead
        yield Step(i, s, x, denoised)


def dpm2(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """DPM-Solver-2: the midpoint method in log sigma, of order 2.

    Lu et al. 2022, arXiv:2206.00927, algorithm 1.
    """
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        slope = (x - denoised) / s
        if t > 0:
            middle = math.sqrt(s * t)
            half = x + (middle - s) * slope
            slope = (half - denoise(half, level(middle, x))) / middle
        x = x + (t - s) * slope
        yield Step(i, s, x, denoised)


def lms(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 4) -> Iterator[Step]:
    """Linear multistep method: Adams-Bashforth for steps of unequal length.

    The polynomial through the last `order` slopes ``dx/dsigma`` is integrated exactly.

    The first steps have fewer past slopes, so the whole method converges with order 2 at most.
    """
    past: list[tuple[float, Tensor]] = []  # (sigma, slope), newest first
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        if t < s:
            past = [(s, (x - denoised) / s), *past[: order - 1]]
            weights = _lagrange([sigma for sigma, _ in past], s, t)
            for weight, (_, slope) in zip(weights, past, strict=True):
                x = x + weight * slope
        yield Step(i, s, x, denoised)


def _lagrange(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrate the Lagrange polynomials over `nodes` from start to end."""
    out = []
    # in units of the step, which avoids cancellation
    places = [(node - start) / (end - start) for node in nodes]
    for k, place in enumerate(places):
        others = [p for j, p in enumerate(places) if j != k]
        whole = (np.poly1d(others, r=True) / np.prod([place - p for p in others])).integ()
        out.append((end - start) * float(whole(1.0)))
    return out


def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, first_order_end: bool = False
) -> Iterator[Step]:
    """DPM-Solver++(2M), of order 2, with one evaluation per step.

    It extrapolates from the last two estimates (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    A step to sigma = 0 returns the denoised estimate. With `first_order_end`, the last step is of
    first order, even if it ends above 0 (diffusers' ``lower_order_final``).
    """
    before: Tensor | None = None
    h_before = 0.0
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        h = math.log(s / t) if t > 0 else math.inf
        best = denoised
        if before is not None and 0 < t < s and not (first_order_end and i == len(sigmas) - 2):
            ratio = h_before / h
            best = (1 + 1 / (2 * ratio)) * denoised - 1 / (2 * ratio) * before
        x = (t / s) * x + (1 - t / s) * best
        if t < s:
            before, h_before = denoised, h
        yield Step(i, s, x, denoised)


def unipc(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, first_order_end: bool = False
) -> Iterator[Step]:
    """UniPC-2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv:2302.04867).

    It has a predictor, and a corrector that needs no extra evaluation.

    A step evaluates the network once. The result first corrects the state that the previous step
    predicted (algorithm 1), and is then used for the next prediction. With `first_order_end` the
    last prediction is of first order, as in :func:`dpmpp_2m`.
    """
    past: list[tuple[float, Tensor]] = []  # (sigma, denoised), newest first
    base = x
    for i, s, t in pairs(sigmas):
        denoised = denoise(x, level(s, x))
        if not past or s < past[0][0]:
            x = _correct(base, past, s, denoised) if past else x
            past = [(s, denoised), *past[:1]]
            base = x
        x = _predict(base, past[:1] if first_order_end and i == len(sigmas) - 2 else past, t)
        yield Step(i, s, x, denoised)


def _predict(x: Tensor, past: list[tuple[float, Tensor]], t: float) -> Tensor:
    s, newest = past[0]
    phi = t / s - 1  # e^-h - 1
    out = (t / s) * x - phi * newest
    if len(past) > 1 and 0 < t < s:
        ratio = math.log(s / past[1][0]) / math.log(s / t)
        out = out - phi * 0.5 * (past[1][1] - newest) / ratio
    return out


def _correct(x: Tensor, past: list[tuple[float, Tensor]], t: float, denoised: Tensor) -> Tensor:
    s, newest = past[0]
    hh = math.log(t / s)  # -h
    phi = math.expm1(hh)
    out = (t / s) * x - phi * newest
    if len(past) == 1:
        return out - phi * 0.5 * (denoised - newest)
    ratio = math.log(s / past[1][0]) / -hh
    # The two weights follow from the first two moments (Zhao et al. 2023, equation 8): R rho = b.
    second = (phi / hh - 1) / hh
    b1, b2 = (phi / hh - 1) / phi, 2 * (second - 0.5) / phi
    weight_past = (b2 - b1) / (ratio - 1)
    weight_new = b1 - weight_past
    return out - phi * (
        weight_past * (past[1][1] - newest) / ratio + weight_new * (denoised - newest)
    )
