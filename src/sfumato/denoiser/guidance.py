"""Classifier-free guidance, and a switch from one denoiser to another during sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.denoiser.denoiser import Denoiser
from sfumato.errors import OptionError
from sfumato.types import Condition, Denoise


def guided(
    denoiser: Denoiser,
    condition: Condition,
    negative: Condition | None,
    scale: float,
    *,
    rescale: float = 0.0,
) -> Denoise:
    """Apply classifier-free guidance, ``D- + scale (D+ - D-)`` (Ho & Salimans 2022,
    arXiv:2207.12598, equation 6).

    Parameters
    ----------
    denoiser : Denoiser
    condition : Condition
        The condition to follow.
    negative : Condition or None
        The condition to move away from. It must have the same parts as `condition`: tokens, vector
        and planes. With a scale of 1, or if `negative` is None, there is no guidance, and the batch
        is not doubled.
    scale : float
        1 turns guidance off; 7.5 is common for Stable Diffusion.
    rescale : float, 0 to 1
        Guidance changes the standard deviation of the prediction. 1 restores the standard deviation
        of the prediction for `condition`, 0 keeps the change, and values between interpolate (Lin
        et al. 2023, arXiv:2305.08891, equations 15-16). The rescaling acts on the raw output of the
        network, not on the estimate of the clean picture.

    Returns
    -------
    Denoise

    Raises
    ------
    OptionError
        If only one of the two conditions has tokens, a vector or planes.
    """
    if negative is None or scale == 1.0:
        return lambda x, sigma: denoiser(x, sigma, condition)
    both = _join(condition, negative)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        positive, other = denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        out = other + scale * (positive - other)
        return out if rescale == 0 else _rescaled(denoiser, x, sigma, out, positive, rescale)

    return denoise


def switched(first: Denoise, second: Denoise, late: Callable[[], bool]) -> Denoise:
    """Use the first denoiser until `late` returns True, and then the second.

    The composition, which forms early, follows the first; the details, which form late, follow the
    second (like prompt editing in the Stable Diffusion web UI).
    """
    return lambda x, sigma: (second if late() else first)(x, sigma)


def _rescaled(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, out: Tensor, positive: Tensor, share: float
) -> Tensor:
    c = denoiser.coefficients(sigma)
    skip, scale = (k.to(x.dtype).to(x.device)[:, None, None, None] for k in (c.c_skip, c.c_out))
    raw, plain = ((d - skip * x) / scale for d in (out, positive))
    deviation = [t.flatten(1).std(1)[:, None, None, None] for t in (raw, plain)]
    pulled = raw * (deviation[1] / deviation[0])
    return skip * x + scale * (share * pulled + (1 - share) * raw)


def _join(a: Condition, b: Condition) -> Condition:
    """Join both conditions to one batch.

    The tokens of the shorter text are repeated up to the length of the longer text.
    """
    vector = _cat("a vector", a.vector, b.vector)
    planes = _cat("planes", a.planes, b.planes)
    if a.tokens is None or b.tokens is None:
        return Condition(_cat("tokens", a.tokens, b.tokens), vector, planes, a.watch)
    length = max(a.tokens.shape[1], b.tokens.shape[1])
    tokens = torch.cat([_fill(a.tokens, length), _fill(b.tokens, length)])
    return Condition(tokens, vector, planes, a.watch)


def _cat(what: str, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Join a part of both conditions; None if neither has it."""
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise OptionError(f"guidance needs {what} in both conditions, or in neither")
    return torch.cat([a, b])


def _fill(tokens: Tensor, length: int) -> Tensor:
    copies = -(-length // tokens.shape[1])
    return tokens.repeat(1, copies, 1)[:, :length]
