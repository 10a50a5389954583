"""The denoising objective for all preconditionings: corrupt, denoise, compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sfumato.denoiser.denoiser import Denoiser
from sfumato.types import Condition, Corrupted, Corruption

Measure = Callable[[Tensor, Tensor], Tensor]
"""(estimate, clean), both (B, C, h, w) -> error of each value, of the same shape."""


def squared(estimate: Tensor, x: Tensor) -> Tensor:
    """Squared error of each value; a gray `x` is compared with every channel."""
    return F.mse_loss(estimate, x.expand_as(estimate), reduction="none")


def cross_entropy(estimate: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy in nats; values in [-1, 1] are rescaled to probabilities in [0, 1].

    Hinton & Salakhutdinov 2006.
    """
    share = ((estimate + 1) / 2).clamp(1e-6, 1 - 1e-6)
    return -((1 + x) * share.log() + (1 - x) * (1 - share).log()) / 2


def vivid(estimate: Tensor, x: Tensor) -> Tensor:
    """Squared error of pictures (B, C, h, w), weighted by how colorful the true pixel is.

    If an object may be gray or colorful, the estimate is a weighted mean in which the colorful
    cases count more, so it is less gray. In a classifier, rebalancing the color classes has a
    similar effect (Zhang et al. 2016, arXiv:1603.08511).
    """
    colorful = (x - x.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True).sqrt()
    return (estimate - x).square() * (colorful + 0.1)


def denoising_loss(
    denoiser: Denoiser,
    x: Tensor,
    corruption: Corruption,
    condition: Condition,
    *,
    generator: Generator | None = None,
    measure: Measure = squared,
    logarithmic: bool = False,
    teach: Callable[[Tensor, Corrupted], Tensor] | None = None,
) -> Tensor:
    """Mean of ``weight(sigma) |D(y, sigma) - x|^2`` over pictures and values; y is the corrupted x.

    Parameters
    ----------
    denoiser : Denoiser
    x : Tensor, (B, C, h, w)
        Clean pictures or latents.
    corruption : Corruption
        For diffusion, Gaussian noise at a random level; for a denoising autoencoder, any corruption
        of :mod:`sfumato.corruption`.
    condition : Condition
    measure : callable
        Error of each value, the squared error by default.
    logarithmic : bool
        Take the mean of the logarithm of each picture's error. Pictures with strong and with weak
        corruption then have equal weight, and the mean PSNR is optimized (Chen et al. 2022,
        arXiv:2204.04676).
    teach : callable, optional
        Maps x and the corrupted x to the target; by default, the target is x.

    Returns
    -------
    Tensor, ()

    References
    ----------
    Vincent et al. 2008; Ho et al. 2020, equation 14; Karras et al. 2022, equation 8.
    """
    # the corruption is computed in full precision, even if the network uses mixed precision
    with torch.autocast(x.device.type, enabled=False):
        corrupted = corruption(x, generator=generator)
    target = x if teach is None else teach(x, corrupted)
    error = measure(denoiser(corrupted.y, corrupted.sigma, condition).float(), target.float()).mean(
        dim=(1, 2, 3)
    )
    error = denoiser.weight(corrupted.sigma) * error
    out: Tensor = ((error + 1e-8).log() if logarithmic else error).mean()
    return out


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1) in nats, averaged over values.

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def drop_condition(
    condition: Condition, empty: Condition, share: float, generator: Generator
) -> Condition:
    """Replace tokens by the tokens of the empty condition with probability `share`.

    Ho & Salimans 2022, arXiv:2207.12598, algorithm 1.
    """
    if condition.tokens is None or empty.tokens is None:
        return condition
    keep = torch.rand(len(condition.tokens), generator=generator) >= share
    tokens = torch.where(
        keep.to(condition.tokens.device)[:, None, None],
        condition.tokens,
        empty.tokens.to(condition.tokens),
    )
    return Condition(tokens, condition.vector, condition.planes)
