"""Train latent diffusion: captions to latents, on an autoencoder and a text encoder that stay as they are.

Latents and text states are computed once and kept on disk, so a step costs the U-Net alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato import image
from sfumato.condition.text import TextEncoder
from sfumato.corruption.noise import DiffusionNoise
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.hub.config import SchedulerConfig
from sfumato.runtime import Streams
from sfumato.sampler.ode import dpmpp_2m
from sfumato.space.kl import AutoencoderKL
from sfumato.train.data import Pictures, cached
from sfumato.train.loss import denoising_loss, drop_condition
from sfumato.types import Condition

DROPPED = 0.1  # share of captions swapped for the empty text (Ho & Salimans 2022, section 4)


class DiffusionJob:
    """The denoising objective on cached latents and text states.

    Parameters
    ----------
    config : UNetConfig
    pictures : Pictures
        Packed pictures with captions.
    space : AutoencoderKL
        Its scaling factor is set so that the latents have unit variance.
    text : TextEncoder
    scheduler : SchedulerConfig
        The noise levels and what the network predicts.
    cache : Path
        Folder for latents and text states.
    prompts : sequence of str
        What the previews show.
    shift : float
        Above 1 trains more on noisier latents (:class:`DiffusionNoise`).
    """

    def __init__(
        self,
        config: UNetConfig,
        pictures: Pictures,
        space: AutoencoderKL,
        text: TextEncoder,
        scheduler: SchedulerConfig,
        cache: Path,
        prompts: list[str],
        shift: float = 1.0,
    ) -> None:
        self.module = UNet(config)
        self.denoiser = Denoiser(self.module, scheduler.kind, scheduler.times())
        self.corruption = DiffusionNoise(self.denoiser.times.sigmas, shift)
        self.pictures, self.space, self.text, self.cache, self.prompts = pictures, space, text, cache, prompts
        self.weights = torch.from_numpy(pictures.weights)
        self.texts = sorted({"", *(c for row in pictures.captions for c in row)})
        place = {t: k for k, t in enumerate(self.texts)}
        self.choices = [[place[c] for c in row] for row in pictures.captions]

    def prepare(self, key: str, *, own_scale: bool = True) -> Iterator[tuple[str, int, int]]:
        """Fill the caches, yielding (what, done, of how many). `key` names the autoencoder and text encoder.

        With `own_scale` the latents of these pictures get unit variance; otherwise the autoencoder's factor stays.
        """
        pixels, texts = self.pictures.pixels, self.texts
        shape = self._latents(0, 1).shape[1:]
        for done in cached(self.cache / "latents.npy", key, (len(pixels), *shape), self._latents):
            yield "latents", done, len(pixels)
        states = self._states(0, 1).shape[1:]
        for done in cached(self.cache / "states.npy", key, (len(texts), *states), self._states):
            yield "text states", done, len(texts)
        self.latents: NDArray[np.float16] = np.load(self.cache / "latents.npy", mmap_mode="r")
        self.states: NDArray[np.float16] = np.load(self.cache / "states.npy", mmap_mode="r")
        if own_scale:
            sample = torch.from_numpy(self.latents[:: max(1, len(self.latents) // 2000)].astype(np.float32))
            self.space.config = self.space.config.model_copy(update={"scaling_factor": 1 / float(sample.std())})
        self.empty = self._tokens([self.texts.index("")])

    @torch.no_grad()
    def _latents(self, start: int, end: int) -> Tensor:
        device = self.space.encoder.conv_in.weight.device
        x = image.from_bytes(torch.from_numpy(np.array(self.pictures.pixels[start:end]))).to(device)
        mean, _ = self.space.moments(x)
        return mean

    def _states(self, start: int, end: int) -> Tensor:
        tokens = self.text(self.texts[start:end], (0, 0))[0].tokens
        assert tokens is not None
        out: Tensor = tokens[:, : self.text.tokenizer.length]
        return out

    def _tokens(self, rows: list[int]) -> Condition:
        device = self.module.conv_in.weight.device
        return Condition(tokens=torch.from_numpy(np.stack([self.states[r] for r in rows]).astype(np.float32)).to(device))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss; each row draws one of its captions, and some draw none."""
        chosen = torch.rand(len(rows), generator=random)
        places = [self.choices[r][int(u * len(self.choices[r]))] for r, u in zip(rows.tolist(), chosen.tolist(), strict=True)]
        condition = drop_condition(self._tokens(places), self.empty, DROPPED, random)
        z = torch.from_numpy(self.latents[rows.numpy()].astype(np.float32)).to(self.module.conv_in.weight.device)
        return denoising_loss(self.denoiser, z * self.space.config.scaling_factor, self.corruption, condition, generator=random)

    def preview(self, path: Path) -> None:
        """The same prompts and noise each time, 20 steps, guidance 3."""
        device = self.module.conv_in.weight.device
        condition, negative = (self.text(p, (0, 0))[0].to(device) for p in (self.prompts, [""] * len(self.prompts)))
        table = self.denoiser.times.sigmas
        sigmas = torch.cat([table[list(range(len(table) - 1, 0, -len(table) // 20))], table.new_zeros(1)])
        side = self.latents.shape[-1]
        noise = Streams(range(len(self.prompts))).normal((len(self.prompts), self.latents.shape[1], side, side)).to(device)
        walk = dpmpp_2m(guided(self.denoiser, condition, negative, 3.0), noise * float((1 + sigmas[0] ** 2).sqrt()), sigmas)
        z = [step.x for step in walk][-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.sheet(image.to_pictures(self.space.decode(z.to(self.space.encoder.conv_in.weight))), columns=8).save(path)
