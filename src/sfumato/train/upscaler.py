"""Train the upscaler of a text-to-image model.

It enlarges a small picture by a factor of 4 along each side, given the picture's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.noise import DiffusionNoise, normal
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ModelError
from sfumato.hub.files import fingerprint
from sfumato.hub.load import Model
from sfumato.hub.save import save_network
from sfumato.progress import result_of
from sfumato.runtime import Streams, autocast, choose_dtype, on_device, seeded
from sfumato.space.detail import Detail
from sfumato.space.kl import AutoencoderKL
from sfumato.tasks.upscale import upscale
from sfumato.train.diffusion import load_to_train
from sfumato.train.latents import Captions, cached
from sfumato.train.loop import train
from sfumato.train.loss import denoising_loss
from sfumato.train.pack import Pictures, pack
from sfumato.train.plan import Event, checked, identity, read_plan, skipped_lines
from sfumato.types import Condition, Progress

CROP = 128  # side of the crops of a large picture
MADE = 0.5  # share of small pictures that imitate generated pictures
LATENT_NOISE = 0.15  # largest noise on the model's latents, to distort the decoded pictures
PIXEL_NOISE = 0.06  # largest noise on small pictures, whose values are in [-1, 1]


class UpscalerJob:
    """The denoising objective on large pictures, given the small ones.

    The clean signal is the large picture minus the enlarged small one (:class:`Detail`).

    Half of the small pictures are made by averaging the large ones over 4x4 pixels. The others
    pass through the model's autoencoder with noise on their latents, so that they have the flaws of
    generated pictures. All small pictures get a little noise (Ho et al. 2021, arXiv:2106.15282,
    section 4).

    Parameters
    ----------
    config : UNetConfig
    data : Captions
        Large pictures with captions, after a call of ``prepare(..., states=True)``.
    model : Model
        Model whose pictures the upscaler enlarges.
    """

    def __init__(self, config: UNetConfig, data: Captions, model: Model) -> None:
        self.module = UNet(config)
        self.denoiser = Denoiser(self.module, "v")
        self.corruption = DiffusionNoise(self.denoiser.times.sigmas)
        self.space, self.data, self.model, self.weights = Detail(), data, model, data.weights

    def prepare(self, key: str) -> Iterator[Progress]:
        """Compute the small pictures that imitate generated pictures, and keep them on disk."""
        count, side = len(self.data.pictures.pixels), self.data.pictures.pixels.shape[-1]
        path, small = self.data.cache / "made.npy", side // self.space.config.factor
        for done in cached(path, key, (count, 3, small, small), self._made):
            yield Progress("small pictures", done, count)
        self._kept = np.load(path, mmap_mode="r")

    @torch.no_grad()
    def _made(self, start: int, end: int) -> Tensor:
        space, rows = self.model.space, torch.arange(start, end)
        small = self._average(self.data.pixels(rows))
        if not isinstance(space, AutoencoderKL):
            return small
        device = self.model.device
        with autocast(device, choose_dtype("auto", device)):
            z = space.encode(small.to(device)).float()
            strength = torch.linspace(0, LATENT_NOISE, 16)[rows % 16, None, None, None]
            z = z + strength.to(z) * Streams(rows.tolist()).like(z)
            return space.decode(z).float().clamp(-1, 1)

    def _average(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.space.config.factor)

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss, weighted by noise level, on a crop of each picture."""
        device = self.module.conv_in.weight.device
        self.data.keep_on(device, "states")
        large = on_device(random, device)
        tokens = self.data.states(self.data.draw(rows, random)).to(device)
        x, small = (t.to(device) for t in self._crops(rows, random))
        with torch.autocast(device.type, enabled=False):
            level = PIXEL_NOISE * torch.rand(len(x), 1, 1, 1, generator=random)
            small = small + level.to(device) * normal(small, large)
            z = self.space.encode(x, small)
        condition = Condition(tokens, planes=small)
        return denoising_loss(self.denoiser, z, self.corruption, condition, generator=large)

    def _crops(self, rows: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """Crops of large pictures (B, 3, S, S) and matching small crops (B, 3, S/4, S/4)."""
        factor, pixels = self.space.config.factor, self.data.pictures.pixels
        side = min(CROP, pixels.shape[-1])
        places = pixels.shape[-1] - side + 1
        large, small = [], []
        for row, (made, *uv) in zip(
            rows.tolist(), torch.rand(len(rows), 3, generator=random).tolist(), strict=True
        ):
            seen = made < MADE
            # a stored small picture has one pixel per block, so crops start at block boundaries
            grid = factor if seen else 1
            top, left = (int(u * places) // grid * grid for u in uv)
            crop = np.array(pixels[row, :, top : top + side, left : left + side])
            large.append(image.from_bytes(torch.from_numpy(crop)))
            if seen:
                a, b, n = top // factor, left // factor, side // factor
                part = np.array(self._kept[row, :, a : a + n, b : b + n], dtype=np.float32)
                small.append(torch.from_numpy(part))
            else:
                small.append(self._average(large[-1]))
        return torch.stack(large), torch.stack(small)

    def preview(self) -> Image.Image:
        """Return a sheet of small pictures above the upscaler's results."""
        rows = torch.arange(0, len(self.weights), max(1, len(self.weights) // 6))[:6]
        device = self.module.conv_in.weight.device
        small = torch.from_numpy(np.array(self._kept[rows.numpy()], dtype=np.float32)).to(device)
        tokens = self.data.states([self.data.choices[r][0] for r in rows.tolist()]).to(device)
        large = result_of(upscale(self.denoiser, small, tokens, Streams(rows.tolist()).like))
        shown = torch.cat([F.interpolate(small, size=large.shape[2:]), large])
        return image.sheet(image.to_pictures(shown), columns=len(rows))


def train_upscaler(
    data: Path, output: Path, model: str, config: Path | None, given: Mapping[str, Any]
) -> Iterator[Event]:
    """Train the upscaler of a model; write it to ``upscaler/`` in `output`.

    If `output` is the model's folder, the upscaler becomes part of the model.
    """
    plan, settings = read_plan("upscaler", data, output, config, given)
    base, encoder = load_to_train(model, settings.device)
    if base.size[0] != base.size[1]:
        raise ModelError(
            f"{model} generates pictures that are not square, so it cannot have an upscaler"
        )
    yield f"reading {data}"
    side = Detail().config.factor * base.size[0]
    pictures: Pictures = yield from pack(data, side, output / "cache", captions=True, enlarge=False)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    usual = _small_unet(base.size[0], encoder.clip.config.hidden_size)
    network = checked(UNet, UNetConfig, {**usual, **plan.network})
    found = Captions(pictures, encoder, output / "cache")
    encoders = fingerprint(base.space, encoder.clip)
    yield from found.prepare(encoders, states=True)
    with seeded(settings.seed):
        job = UpscalerJob(network, found, base)
    yield from job.prepare(f"{encoders} {pictures.digest}")
    about = identity(plan, pictures.digest, network, task="upscaler", encoders=encoders)
    yield from train(job, settings, output / "upscaler", about)
    save_network(job.module, output / "upscaler")


def _small_unet(size: int, text_width: int) -> dict[str, Any]:
    """Config of a U-Net with 5.5 million weights.

    Most of them are on the coarsest level, where a position covers 16x16 pixels.
    """
    detail = Detail().config.latent_channels
    return {
        "sample_size": size,
        "in_channels": detail + 3,
        "out_channels": detail,
        "block_out_channels": [96, 112, 112],
        "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "cross_attention_dim": text_width,
        "attention_head_dim": 4,
    }
