"""The denoiser at infinite noise: of the picture nothing is left, and the best estimate is the mean over all that the text may show.

A network for this alone, from a text to latents, learns it with a hundredth of a U-Net's work; a walk then begins at a lower
noise level from its estimate. (A prior as in Ramesh et al. 2022, arXiv:2204.06125, section 2.2, of the latents themselves.)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.types import Config


class PriorConfig(Config):
    """``prior/config.json``."""

    text_width: int = 256  # of the text transformer's states
    width: int = 1024
    layers: int = 2  # between the first and the last
    channels: int = 16  # of the latents
    side: int = 8  # positions of the latents along each side


class Prior(nn.Module):
    """End states of texts (B, text_width) to the mean of the scaled latents (B, channels, side, side).

    Examples
    --------
    >>> import torch
    >>> Prior(PriorConfig(width=32))(torch.zeros(3, 256)).shape
    torch.Size([3, 16, 8, 8])
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.text_width, config.width)
        self.between = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.last = nn.Linear(config.width, config.channels * config.side**2)

    def forward(self, ends: Tensor) -> Tensor:
        """The estimate; see the class."""
        h = self.first(ends)
        for layer in self.between:
            h = layer(F.gelu(h))
        out: Tensor = self.last(F.gelu(h)).unflatten(1, (self.config.channels, self.config.side, self.config.side))
        return out


def fitted(estimate: Tensor, like: Tensor) -> Tensor:
    """An estimate brought to as many positions as latents of another size have."""
    if estimate.shape[-2:] == like.shape[-2:]:
        return estimate
    return F.interpolate(estimate, size=like.shape[-2:], mode="bilinear")
