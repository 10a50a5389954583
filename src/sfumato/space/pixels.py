"""Pictures as they are: the space of denoising autoencoders, and of diffusion before there were
latents.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sfumato.config import Config
from sfumato.image import LUMA


class PixelsConfig(Config):
    """What a latent space says of itself, of pixels: a position is a pixel, its values are the
    colors.
    """

    factor: Literal[1] = 1
    latent_channels: Literal[1, 3] = 3  # 1: gray pictures
    scaling_factor: Literal[1] = 1


class Pixels(nn.Module):
    """The identity as a :class:`Space`: a model without an autoencoder works here (Ho et al. 2020,
    arXiv:2006.11239).

    What was measured of a picture is then kept exactly at every step, where a latent space only
    comes near it.

    Parameters
    ----------
    channels : {1, 3}
        1 for a model of gray pictures, as of digits.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 3, 8, 8)
    >>> Pixels().decode(Pixels().encode(x)) is x
    True
    >>> Pixels(1).encode(x).shape, Pixels(1).decode(Pixels(1).encode(x)).shape
    (torch.Size([1, 1, 8, 8]), torch.Size([1, 3, 8, 8]))
    """

    deviation = 1.0  # of what noise of deviation 1 on a picture becomes here

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.config = PixelsConfig.read({"latent_channels": channels}, "pixels")

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], as they are; of gray ones the luminance (B, 1, H,
        W).
        """
        if self.config.latent_channels == 3:
            return x
        return (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)

    def decode(self, z: Tensor) -> Tensor:
        """The same back, in three channels."""
        return z if self.config.latent_channels == 3 else z.expand(-1, 3, -1, -1)
