"""Deep and convolutional autoencoders, for short nonlinear codes.

Both kinds take pictures (B, C, H, W) with values in [-1, 1]. A row of a table is a picture with one
line of pixels, (1, 1, d).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.types import Condition

Output = Literal["linear", "sigmoid"]


class DeepConfig(Config):
    """Config of a deep autoencoder: fully connected layers, in reverse order in the decoder."""

    shape: tuple[int, int, int]  # C, H, W of a picture
    # hidden sizes of the encoder; the decoder has them in reverse order
    layers: tuple[int, ...] = (1000, 500, 250)
    codes: int = 30
    output: Output = "linear"  # sigmoid for data that is black or white, trained by cross-entropy


class ConvConfig(Config):
    """Config of a convolutional autoencoder.

    The encoder has convolutions that halve the picture, then two fully connected layers that output
    the code. The decoder mirrors the encoder.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...] = (32, 64, 128)  # channels after each halving
    hidden: int = 256
    codes: int = 30
    output: Output = "linear"


class Autoencoder(nn.Module):
    """Base class of the deep and the convolutional autoencoder.

    It has ``encode``, ``decode``, and ``forward`` for the denoising objective.

    Attributes
    ----------
    center, spread : Tensor
        Mean (C, H, W) of the data, and one standard deviation over all values. The layers get
        values that are normalized with both.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, config: DeepConfig | ConvConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(config.shape))
        self.register_buffer("spread", torch.ones(()))
        self.encoder, self.decoder = self._build()
        _start(self.encoder)
        _start(self.decoder)

    def _build(self) -> tuple[nn.Sequential, nn.Sequential]:
        raise NotImplementedError

    @torch.no_grad()
    def fit_normalization(self, x: Tensor) -> None:
        """Set center and spread from data (N, C, H, W)."""
        self.center.copy_(x.mean(dim=0))
        self.spread.copy_((x - self.center).square().mean().sqrt().clamp_min(1e-6))

    @torch.no_grad()
    def recenter(self, x: Tensor) -> None:
        """Shift the codes so that the mean code of data (N, C, H, W) is zero, as in PCA.

        The decoder's first bias compensates for the shift.
        """
        last, first = self.encoder[-1], self.decoder[0]
        assert isinstance(last, nn.Linear) and isinstance(first, nn.Linear)
        mean = self.encode(x).mean(dim=0)
        last.bias.sub_(mean)
        first.bias.add_(first.weight @ mean)

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures (B, C, H, W) in [-1, 1] as codes (B, k)."""
        z: Tensor = self.encoder((x - self.center) / self.spread)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Decode codes (B, k) to pictures (B, C, H, W)."""
        y: Tensor = (
            self.decoder(z).unflatten(1, self.config.shape)
            if isinstance(self.decoder[-1], nn.Linear)
            else self.decoder(z)
        )
        if self.config.output == "sigmoid":  # y is added to the mean picture's log-odds
            return 2 * torch.sigmoid(((self.center + 1) / 2).clamp(1e-3, 1 - 1e-3).logit() + y) - 1
        return torch.addcmul(self.center, self.spread, y)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """Encode and decode `x`, which may be corrupted.

        The output is the estimate of the clean picture itself (preconditioning ``direct``).
        """
        return self.decode(self.encode(x))


class DeepAutoencoder(Autoencoder):
    """Autoencoder of fully connected layers with SiLU, trained as a whole.

    An example is 784-1000-500-250-30 (Hinton & Salakhutdinov 2006).

    Examples
    --------
    >>> space = DeepAutoencoder(DeepConfig(shape=(1, 28, 28), layers=(64, 32), codes=2))
    >>> space.encode(torch.zeros(5, 1, 28, 28)).shape, space.decode(torch.zeros(5, 2)).shape
    (torch.Size([5, 2]), torch.Size([5, 1, 28, 28]))
    """

    config: DeepConfig

    def _build(self) -> tuple[nn.Sequential, nn.Sequential]:
        config = self.config
        widths = [math.prod(config.shape), *config.layers, config.codes]
        return nn.Sequential(nn.Flatten(), *_stack(widths)), nn.Sequential(*_stack(widths[::-1]))


def _stack(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return layers[:-1]


def _start(layers: nn.Sequential) -> None:
    """Initialize weights with the variance-preserving gain of rectified units (He et al. 2015).

    The last layer has no activation, so it gets the linear gain.
    """
    weighted = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in weighted:
        nn.init.kaiming_normal_(
            layer.weight, nonlinearity="linear" if layer is weighted[-1] else "relu"
        )
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class ConvAutoencoder(Autoencoder):
    """Autoencoder of strided convolutions and nearest-neighbor upsampling, with SiLU.

    The config sets the height and width, which may be odd. The network takes only this size.

    Examples
    --------
    >>> space = ConvAutoencoder(ConvConfig(shape=(3, 30, 20), widths=(8, 16), hidden=32, codes=4))
    >>> space.decode(space.encode(torch.zeros(2, 3, 30, 20))).shape
    torch.Size([2, 3, 30, 20])
    """

    config: ConvConfig

    def _build(self) -> tuple[nn.Sequential, nn.Sequential]:
        config = self.config
        channels, *size = config.shape
        sizes = [
            (math.ceil(size[0] / 2**k), math.ceil(size[1] / 2**k))
            for k in range(len(config.widths) + 1)
        ]
        down: list[nn.Module] = []
        for a, b in zip((channels, *config.widths), config.widths, strict=False):
            down += [
                nn.Conv2d(a, b, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.SiLU(),
            ]
        deepest = config.widths[-1], *sizes[-1]
        down += [
            nn.Flatten(),
            nn.Linear(math.prod(deepest), config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.codes),
        ]
        up: list[nn.Module] = [
            nn.Linear(config.codes, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, math.prod(deepest)),
            nn.SiLU(),
        ]
        up.append(nn.Unflatten(1, deepest))
        narrower = (*config.widths[-2::-1], config.widths[0])
        for a, b, to in zip(config.widths[::-1], narrower, sizes[-2::-1], strict=True):
            up += [
                _Grow(to),
                nn.Conv2d(a, b, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.SiLU(),
            ]
        return nn.Sequential(*down), nn.Sequential(
            *up, nn.Conv2d(config.widths[0], channels, 3, padding=1)
        )


class _Grow(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=self.size)
