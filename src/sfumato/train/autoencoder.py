"""Train the first stage: pictures to latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from sfumato import image
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.train.loss import kl_to_normal
from sfumato.train.pack import Pictures

KL_WEIGHT = 2e-4  # per latent value, against a mean absolute pixel error of about 0.03


class AutoencoderJob:
    """Absolute error of the reconstruction (sharp edges), squared error (right colors), and a divergence.

    The divergence is small and keeps the latents near the standard normal. The decoder sees
    ``mean + deviation n``: it is a denoising autoencoder in its own latent space.
    """

    def __init__(self, config: AutoencoderConfig, pictures: Pictures, kl_weight: float = KL_WEIGHT) -> None:
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
        return error.abs().mean() + 2 * error.square().mean() + self.kl_weight * kl_to_normal(mean, log_variance)

    def preview(self, path: Path) -> None:
        """Originals above their reconstructions."""
        x = self.batch(torch.arange(min(12, len(self.pixels))))
        pictures = image.to_pictures(torch.cat([x, self.module.decode(self.module.encode(x))]))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.sheet(pictures, columns=len(x)).save(path)
