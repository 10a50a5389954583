"""The one objective of every row of the table: corrupt, denoise, compare."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sfumato.denoiser.denoiser import Denoiser
from sfumato.types import Condition, Corruption


def denoising_loss(denoiser: Denoiser, x: Tensor, corruption: Corruption, condition: Condition, *, generator: Generator | None = None) -> Tensor:
    """``weight(sigma) |D(y, sigma) - x|^2``, y the corrupted x; the mean over pictures and values.

    Parameters
    ----------
    denoiser : Denoiser
    x : Tensor, (B, C, h, w)
        Clean pictures or latents.
    corruption : Corruption
        For diffusion: Gaussian noise at a random level. For a denoising autoencoder: any of the registry.
    condition : Condition

    Returns
    -------
    Tensor, ()

    References
    ----------
    Vincent et al. 2008; Ho et al. 2020, equation 14; Karras et al. 2022, equation 8.
    """
    corrupted = corruption(x, generator=generator)
    error = (denoiser(corrupted.y, corrupted.sigma, condition).float() - x.float()).square().mean(dim=(1, 2, 3))
    out: Tensor = (denoiser.weight(corrupted.sigma) * error).mean()
    return out


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of N(mean, exp(log_variance)) from N(0, 1) in nats, mean over values (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def drop_condition(condition: Condition, empty: Condition, share: float, generator: Generator) -> Condition:
    """Swap a random `share` of the conditions for the empty one (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1)."""
    if condition.tokens is None or empty.tokens is None:
        return condition
    keep = torch.rand(len(condition.tokens), generator=generator) >= share
    tokens = torch.where(keep.to(condition.tokens.device)[:, None, None], condition.tokens, empty.tokens.to(condition.tokens))
    return Condition(tokens, condition.vector, condition.planes)
