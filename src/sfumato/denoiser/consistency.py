"""Data consistency: turn a denoiser into one whose estimates agree with a measurement.

The packages ``corruption``, ``space``, ``denoiser``, ``condition`` and ``sampler`` never import one
another. This module uses a corruption without importing it: it accepts any corruption that follows
the protocol :class:`Linear`.
"""

from __future__ import annotations

from torch import Tensor

from sfumato.types import Denoise, Linear


def consistent(denoise: Denoise, corruption: Linear, y: Tensor) -> Denoise:
    """Return the denoiser ``D + A+ (y - A D)``, where ``D`` is `denoise`.

    The part that ``A`` measures comes from `y`, and all else from ``D`` (Wang et al. 2022,
    arXiv:2212.00490, equation 10).

    With this denoiser, any sampler can inpaint, colorize or enlarge pictures, and the result
    satisfies ``A x = y``.

    Parameters
    ----------
    denoise : Denoise
    corruption : Linear
        ``A``.
    y : Tensor
        The measurement, without noise, of the shape of ``corruption.apply(x)``.

    Examples
    --------
    >>> import torch
    >>> from sfumato.corruption.color import Grayscale
    >>> y = torch.full((1, 1, 2, 2), 0.5)
    >>> D = consistent(lambda x, sigma: torch.zeros_like(x), Grayscale(), y)
    >>> bool(torch.allclose(Grayscale().apply(D(torch.ones(1, 3, 2, 2), torch.ones(1))), y))
    True
    """

    def denoise_with(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = denoise(x, sigma)
        return estimate + corruption.pinv(y - corruption.apply(estimate))

    return denoise_with
