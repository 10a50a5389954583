"""Train latent diffusion: captions to latents, on an autoencoder and a text encoder that stay as they are.

Latents and text states are computed once and kept on disk, so a step costs the U-Net alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.noise import DiffusionNoise
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.hub.config import SchedulerConfig
from sfumato.runtime import Streams
from sfumato.sampler.ode import dpmpp_2m
from sfumato.train.latents import Latents
from sfumato.train.loss import denoising_loss, drop_condition
from sfumato.types import Condition

STATES = 2000  # texts whose states tell how much these vary
DROPPED = 0.1  # share of captions swapped for the empty text (Ho & Salimans 2022, section 4)


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
    text_noise : float
        Noise on the text's states, as a share of their standard deviation: texts that mean nearly the same
        shall give nearly the same picture.
    """

    def __init__(
        self, config: UNetConfig, data: Latents, scheduler: SchedulerConfig, prompts: list[str], shift: float = 1.0, text_noise: float = 0.0
    ) -> None:
        self.module = UNet(config)
        self.denoiser = Denoiser(self.module, scheduler.kind, scheduler.times())
        self.corruption = DiffusionNoise(self.denoiser.times.sigmas, shift)
        self.data, self.prompts, self.weights = data, prompts, data.weights
        self.empty = self._tokens([data.texts.index("")])
        self.text_noise = text_noise * float(data.states(range(min(STATES, len(data.texts)))).std())

    def _tokens(self, places: Sequence[int]) -> Condition:
        return Condition(tokens=self.data.states(places).to(self.module.conv_in.weight.device))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss; each row draws one of its captions, and some draw none."""
        condition = self._tokens(self.data.draw(rows, random))
        tokens = condition.tokens
        if self.text_noise and tokens is not None:
            condition = Condition(tokens=tokens + self.text_noise * torch.randn(tokens.shape, generator=random).to(tokens))
        condition = drop_condition(condition, self.empty, DROPPED, random)
        z = self.data.latents(rows).to(self.module.conv_in.weight.device)
        return denoising_loss(self.denoiser, z, self.corruption, condition, generator=random)

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
        image.sheet(image.to_pictures(self.data.space.decode(z)), columns=min(8, len(self.prompts)), captions=self.prompts).save(path)
