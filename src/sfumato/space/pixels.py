"""Pixel space: the space of denoising autoencoders and of diffusion models without latents."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sfumato.config import Config
from sfumato.image import LUMA


class PixelsConfig(Config):
    """Config of the pixel space, with the keys of a latent space's config.

    A latent position is a single pixel, and its channels are the colors.
    """

    factor: Literal[1] = 1
    latent_channels: Literal[1, 3] = 3  # 1: gray pictures
    scaling_factor: Literal[1] = 1


class Pixels(nn.Module):
    """The identity as a :class:`Space`, for models without an autoencoder.

    The models of Ho et al. 2020 (arXiv:2006.11239) work in this space.

    In this space, known pixels can be kept exactly at every sampler step; a latent space only
    approximates them.

    Parameters
    ----------
    channels : {1, 3}
        1 for a model of gray pictures, such as digits.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 3, 8, 8)
    >>> Pixels().decode(Pixels().encode(x)) is x
    True
    >>> Pixels(1).encode(x).shape, Pixels(1).decode(Pixels(1).encode(x)).shape
    (torch.Size([1, 1, 8, 8]), torch.Size([1, 3, 8, 8]))
    """

    deviation = 1.0  # noise level for noise of standard deviation 1 on a picture

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.config = PixelsConfig.read({"latent_channels": channels}, "pixels")

    def encode(self, x: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W) in [-1, 1] unchanged.

        For a gray model, return their luminance (B, 1, H, W).
        """
        if self.config.latent_channels == 3:
            return x
        return (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)

    def decode(self, z: Tensor) -> Tensor:
        """Return pictures with three channels, (B, 3, H, W)."""
        return z if self.config.latent_channels == 3 else z.expand(-1, 3, -1, -1)
