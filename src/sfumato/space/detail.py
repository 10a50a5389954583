"""What a large picture has beyond a small one of it: the space in which the upscaler works."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sfumato.config import Config


class DetailConfig(Config):
    """What a latent space says of itself, of details: a position is a block of 4x4 pixels."""

    factor: Literal[4] = 4
    latent_channels: Literal[48] = 48
    scaling_factor: float = 4.0


class Detail:
    """Each block of 4x4 pixels, less the pixel of the small picture that it stands under.

    Nothing is learned and nothing is lost: the pixels of a block become channels (Shi et al. 2016,
    arXiv:1609.05158, section 3.2), and the small picture is added again when they are laid out.
    The details are small numbers, so they are scaled to a deviation near one.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(1, 3, 8, 8)
    >>> small = F.avg_pool2d(x, 4)
    >>> z = Detail().encode(x, small)
    >>> z.shape, bool(torch.allclose(Detail().decode(z, small), x, atol=1e-6))
    (torch.Size([1, 48, 2, 2]), True)
    """

    def __init__(self) -> None:
        self.config = DetailConfig()

    def encode(self, x: Tensor, small: Tensor) -> Tensor:
        """Pictures (B, 3, 4h, 4w) and small ones (B, 3, h, w) to details (B, 48, h, w)."""
        beyond = x - F.interpolate(small, scale_factor=float(self.config.factor))
        return self.config.scaling_factor * F.pixel_unshuffle(beyond, self.config.factor)

    def decode(self, z: Tensor, small: Tensor) -> Tensor:
        """Details (B, 48, h, w) and small pictures (B, 3, h, w) to pictures (B, 3, 4h, 4w)."""
        beyond = F.pixel_shuffle(z / self.config.scaling_factor, self.config.factor)
        return beyond + F.interpolate(small, scale_factor=float(self.config.factor))
