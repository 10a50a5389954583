"""Enlarge pictures by a factor of 4 with a diffusion model.

The model generates the details that a small picture lacks, conditioned on the picture's prompt.

The small picture nearly determines the large one, so a few steps without guidance suffice. Ho et
al. 2021 (arXiv:2106.15282) describe such cascades of diffusion models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sfumato.denoiser.denoiser import Denoiser
from sfumato.sampler.ode import dpmpp_2m
from sfumato.sampler.schedule import initial, trailing
from sfumato.space.detail import Detail
from sfumato.types import Condition, Progress, Reporting, Step

STEPS = 4


def stream(
    denoiser: Denoiser,
    small: Tensor,
    tokens: Tensor | None,
    noise: Callable[[Tensor], Tensor],
    steps: int = STEPS,
) -> Iterator[Step]:
    """Yield the sampler's steps, which work on the details that the small picture lacks.

    Parameters
    ----------
    denoiser : Denoiser
        Its U-Net takes noisy details, and the small picture as ``condition.planes``.
    small : Tensor, (B, 3, h, w), in [-1, 1]
    tokens : Tensor, (B, T, D), optional
        Text states of the prompts.
    noise : callable
        Returns standard normal noise of the shape of a tensor.
    steps : int
    """
    sigmas = trailing(denoiser.times.sigmas, steps)
    condition = Condition(tokens, planes=small)
    start = noise(small.new_empty(len(small), Detail().config.latent_channels, *small.shape[2:]))
    yield from dpmpp_2m(
        lambda x, sigma: denoiser(x, sigma, condition),
        initial(start, float(sigmas[0])),
        sigmas,
    )


@torch.inference_mode()  # active while the generator runs, not between its steps
def upscale(
    denoiser: Denoiser,
    small: Tensor,
    tokens: Tensor | None,
    noise: Callable[[Tensor], Tensor],
    steps: int = STEPS,
) -> Reporting[Tensor]:
    """Enlarge pictures (B, 3, h, w) in [-1, 1] to (B, 3, 4h, 4w); see :func:`stream`.

    This is a generator: it yields progress and returns the result.
    """
    details = torch.zeros(())
    for step in stream(denoiser, small, tokens, noise, steps):
        details = step.x
        yield Progress("enlarging", step.index + 1, steps)
    return Detail().decode(details, small).clamp(-1, 1)
