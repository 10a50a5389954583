"""Train latent diffusion: captions to latents, on an autoencoder and a text encoder that stay as they are.

Latents and text states are computed once and kept on disk, so a step costs the U-Net alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.noise import DiffusionNoise, uniform
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.prior import Prior, fitted
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.hub.config import SchedulerConfig
from sfumato.runtime import Streams
from sfumato.sampler.ode import dpmpp_2m
from sfumato.train.latents import Latents
from sfumato.train.loss import denoising_loss, drop_condition
from sfumato.types import Condition, Corrupted

DROPPED = 0.1  # share of captions swapped for the empty text (Ho & Salimans 2022, section 4)


@dataclass(frozen=True)
class FromPrior:
    """Noise at every level up to that at which a walk leaves the prior's estimate, and that much of its error.

    On a straight walk from ``m + s n`` to x the part of m that is left falls as the noise does, so at level sigma the network
    meets ``x + (sigma / s) (m - x) + sigma n`` (residual shifting: Yue et al. 2023, arXiv:2307.12348).

    Attributes
    ----------
    noise : DiffusionNoise
    estimate : Tensor
        m, of the shape of the latents.
    start : float
        s; above it, all of the estimate's error is there.
    """

    noise: DiffusionNoise
    estimate: Tensor
    start: float

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Half of the batch as from the prior, the other half as from pure noise."""
        out = self.noise(x, generator=generator)
        left = (out.sigma / self.start).clamp_max(1) * (uniform(len(x), x, generator) < 0.5)
        return Corrupted(out.y + left.to(x)[:, None, None, None] * (self.estimate - x), out.sigma)


class DiffusionJob:
    """The denoising objective on cached latents and text states.

    Parameters
    ----------
    config : UNetConfig
    data : Latents
        Prepared.
    scheduler : SchedulerConfig
        The noise levels and what the network predicts.
    prompts : sequence of str
        What the previews show.
    shift : float
        Above 1 trains more on noisier latents (:class:`DiffusionNoise`).
    prior : Prior, optional
        Whose estimates walks will begin with.
    start : float
        The share of the times that such a walk goes through.
    """

    def __init__(
        self, config: UNetConfig, data: Latents, scheduler: SchedulerConfig, prompts: list[str], shift: float = 1.0,
        prior: Prior | None = None, start: float = 1.0,
    ) -> None:  # fmt: skip
        self.module = UNet(config)
        self.denoiser = Denoiser(self.module, scheduler.kind, scheduler.times())
        sigmas = self.denoiser.times.sigmas
        self.corruption, self.start = DiffusionNoise(sigmas, shift), float(sigmas[min(len(sigmas) - 1, round(start * len(sigmas)))])
        self.data, self.prompts, self.prior, self.weights = data, prompts, prior, data.weights
        self.empty = self._tokens([data.texts.index("")])

    def _tokens(self, places: list[int]) -> Condition:
        return Condition(tokens=self.data.states(places).to(self.module.conv_in.weight.device))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss; each row draws one of its captions, and some draw none."""
        places, device = self.data.draw(rows, random), self.module.conv_in.weight.device
        condition = drop_condition(self._tokens(places), self.empty, DROPPED, random)
        z, corruption = self.data.latents(rows).to(device), self.corruption
        if self.prior is None:
            return denoising_loss(self.denoiser, z, corruption, condition, generator=random)
        with torch.no_grad():
            estimate = fitted(self.prior.to(device)(self.data.ends(places).to(device)).float(), z)
        return denoising_loss(self.denoiser, z, FromPrior(corruption, estimate, self.start), condition, generator=random)

    def preview(self, path: Path) -> None:
        """The same prompts and noise each time, 20 steps, guidance 3."""
        if not self.prompts:
            return
        device = self.module.conv_in.weight.device
        condition, negative = (self.data.text(p, (0, 0))[0].to(device) for p in (self.prompts, [""] * len(self.prompts)))
        table = self.denoiser.times.sigmas
        sigmas = torch.cat([table[list(range(len(table) - 1, 0, -len(table) // 20))], table.new_zeros(1)])
        shape = self.data.latents(torch.tensor([0])).shape[1:]
        noise = Streams(range(len(self.prompts))).normal((len(self.prompts), *shape)).to(device)
        walk = dpmpp_2m(guided(self.denoiser, condition, negative, 3.0), noise * float((1 + sigmas[0] ** 2).sqrt()), sigmas)
        z = [step.x for step in walk][-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.sheet(image.to_pictures(self.data.space.decode(z)), columns=8).save(path)
