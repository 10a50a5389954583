"""Pictures as they are: the space of denoising autoencoders, and of diffusion before there were
latents.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sfumato.config import Config


class PixelsConfig(Config):
    """What a latent space says of itself, of pixels: a position is a pixel, its values are the
    colors.
    """

    factor: Literal[1] = 1
    latent_channels: Literal[3] = 3
    scaling_factor: Literal[1] = 1


class Pixels(nn.Module):
    """The identity as a :class:`Space`: a model without an autoencoder works here (Ho et al. 2020,
    arXiv:2006.11239).

    What was measured of a picture is then kept exactly at every step, where a latent space only
    comes near it.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 3, 8, 8)
    >>> Pixels().decode(Pixels().encode(x)) is x
    True
    """

    deviation = 1.0  # of what noise of deviation 1 on a picture becomes here

    def __init__(self) -> None:
        super().__init__()
        self.config = PixelsConfig()

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], as they are."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """The same."""
        return z
