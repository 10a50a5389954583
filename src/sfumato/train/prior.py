"""Train the prior: from the text alone to the latents of the picture, the denoising objective where noise is infinite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from sfumato import image
from sfumato.denoiser.prior import Prior, PriorConfig
from sfumato.train.latents import Latents
from sfumato.train.loss import squared

JITTER = 0.05  # deviation of noise on the texts' end states: texts that mean nearly the same shall give nearly the same


class PriorJob:
    """Mean squared error between what a text lets expect and the picture that it stood beside.

    Parameters
    ----------
    config : PriorConfig
    data : Latents
        Prepared; their scale is the autoencoder's.
    """

    def __init__(self, config: PriorConfig, data: Latents) -> None:
        self.module, self.data = Prior(config), data
        self.weights = data.weights

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean over values; each row draws one of its captions."""
        device = self.module.first.weight.device
        ends = self.data.ends(self.data.draw(rows, random)).to(device)
        z = self.data.latents(rows).to(device)
        return squared(self.module(ends + JITTER * torch.randn(ends.shape, generator=random).to(ends)).float(), z).mean()

    def preview(self, path: Path) -> None:
        """Above what the first texts let expect, below the pictures."""
        rows = torch.arange(min(8, len(self.data.choices)))
        device = self.module.first.weight.device
        z = torch.cat([self.module(self.data.ends([self.data.choices[r][0] for r in rows]).to(device)), self.data.latents(rows).to(device)])
        path.parent.mkdir(parents=True, exist_ok=True)
        image.sheet(image.to_pictures(self.data.space.decode(z)), columns=len(rows)).save(path)
