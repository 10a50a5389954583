"""Train the autoencoder, the first stage of latent diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.hub.save import save_network
from sfumato.runtime import seeded
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.train.loop import train
from sfumato.train.loss import kl_to_normal
from sfumato.train.pack import Pictures, pack
from sfumato.train.plan import (
    Event,
    check_size,
    checked,
    identity,
    read_plan,
    skipped_lines,
)

KL_WEIGHT = 2e-4  # KL divergence per latent value; the mean absolute pixel error is about 0.03


class AutoencoderJob:
    """Reconstruction loss of the autoencoder, plus a KL divergence of its latents.

    The reconstruction loss is the absolute error, for sharp edges, plus twice the squared error,
    for the right colors.

    The divergence has a small weight and keeps the latents near the standard normal. The decoder
    gets ``mean + deviation * n``, where n is standard normal noise. So the network is a denoising
    autoencoder in its own latent space.
    """

    def __init__(
        self, config: AutoencoderConfig, pictures: Pictures, kl_weight: float = KL_WEIGHT
    ) -> None:
        self.module = AutoencoderKL(config)
        self.pixels, self.kl_weight = pictures.pixels, kl_weight
        self.weights = torch.from_numpy(pictures.weights)

    def batch(self, rows: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] on the module's device."""
        device = self.module.encoder.conv_in.weight.device
        return image.from_bytes(torch.from_numpy(self.pixels[rows.numpy()])).to(device)

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss over the pictures."""
        x = self.batch(rows)
        mean, log_variance = (m.float() for m in self.module.moments(x))
        noise = torch.randn(mean.shape, generator=random).to(mean)
        y = self.module.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        error = y.float() - x
        return (
            error.abs().mean()
            + 2 * error.square().mean()
            + self.kl_weight * kl_to_normal(mean, log_variance)
        )

    def preview(self) -> Image.Image:
        """Return a sheet of originals above their reconstructions."""
        x = self.batch(torch.arange(min(12, len(self.pixels))))
        pictures = image.to_pictures(torch.cat([x, self.module.decode(self.module.encode(x))]))
        return image.sheet(pictures, columns=len(x))


def train_autoencoder(
    data: Path, output: Path, config: Path | None, given: Mapping[str, Any]
) -> Iterator[Event]:
    """Train the autoencoder; write its config and weights."""
    plan, settings = read_plan("autoencoder", data, output, config, given)
    network = checked(
        AutoencoderKL, AutoencoderConfig, {**_small_autoencoder(plan.size), **plan.network}
    )
    check_size(plan.size, network.factor, "the autoencoder's factor")
    yield f"reading {data}"
    pictures = yield from pack(data, plan.size, output / "cache", captions=False)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    with seeded(settings.seed):
        job = AutoencoderJob(network, pictures)
    yield from train(
        job,
        settings,
        output,
        identity(plan, pictures.digest, job.module.config, task="autoencoder"),
    )
    save_network(job.module, output)


def _small_autoencoder(size: int) -> dict[str, Any]:
    levels = 4
    kinds = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    return {
        **kinds,
        "block_out_channels": [16, 32, 64, 128],
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 16,
        "sample_size": size,
    }
