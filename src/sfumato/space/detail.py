"""The space of the upscaler: the difference between a large picture and its small version."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sfumato.config import Config


class DetailConfig(Config):
    """Config of the detail space, with the keys of a latent space's config.

    A latent position is a 4x4 block of pixels.
    """

    factor: Literal[4] = 4
    latent_channels: Literal[48] = 48
    scaling_factor: float = 4.0


class Detail:
    """Details of a large picture: each 4x4 block minus the matching pixel of a small picture.

    Nothing is learned, and no information is lost: the pixels of a block become channels (Shi et
    al. 2016, arXiv:1609.05158, section 3.2), and decoding adds the small picture again. Details are
    small numbers, so they are scaled to a standard deviation near one.

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
        """Return the details (B, 48, h, w) that the small pictures lack.

        Takes the large pictures (B, 3, 4h, 4w) and the small ones (B, 3, h, w).
        """
        beyond = x - F.interpolate(small, scale_factor=float(self.config.factor))
        return self.config.scaling_factor * F.pixel_unshuffle(beyond, self.config.factor)

    def decode(self, z: Tensor, small: Tensor) -> Tensor:
        """Decode details (B, 48, h, w) of small pictures (B, 3, h, w) as (B, 3, 4h, 4w)."""
        beyond = F.pixel_shuffle(z / self.config.scaling_factor, self.config.factor)
        return beyond + F.interpolate(small, scale_factor=float(self.config.factor))
