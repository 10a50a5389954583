"""The restorer: a network of 3x3 convolutions on three scales that restores photos in one step.

Besides the picture, the network gets extra input channels (planes) that describe what is known
about the picture. The picture is pixel-unshuffled to half its size (Shi et al. 2016,
arXiv:1609.05158; FFDNet, Zhang et al. 2018, arXiv:1710.04026). The scales follow DRUNet (Zhang et
al. 2021, arXiv:2008.13751). By default, the residual blocks have no norms or biases, so that the
output scales with the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.types import Condition

# 1 where the pixel is known; 1 where its color is known; 1 / the enlargement factor; JPEG quality /
# 100
PLANES = ("known", "color", "detail", "quality")
# side of a window and margin around it, in pixels: the margin exceeds the receptive field of the
# bundled networks, so windows do not change the result
TILE, MARGIN = 640, 96
# the eight symmetries of a square; the first is the identity
VIEWS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]
# number of halvings in `interpolated`; margin in pixels for a network with ``fills``
REACH, FILLS_MARGIN = 5, 192
CELL = 16  # side of the squares over which measured noise levels are averaged, in pixels


def restorer_planes(
    known: Tensor, color: float = 1.0, detail: float = 1.0, quality: float = 1.0
) -> Tensor:
    """Build the planes (B, 4, H, W) that describe for a restorer what is known about a picture.

    Parameters
    ----------
    known : Tensor, (B, 1, H, W)
        1 where a pixel was measured, else 0.
    color : float
        0 if the picture is gray and is to be colorized, else 1.
    detail : float
        1 divided by the factor by which the picture was enlarged.
    quality : float
        JPEG quality of the picture, divided by 100.

    Examples
    --------
    >>> restorer_planes(torch.ones(1, 1, 2, 2), detail=0.5)[0, :, 0, 0].tolist()
    [1.0, 1.0, 0.5, 1.0]
    """
    return torch.cat(
        [known, *(torch.full_like(known, value) for value in (color, detail, quality))], dim=1
    )


def self_ensemble(
    function: Callable[..., Tensor], views: Sequence[tuple[int, bool]], *pictures: Tensor
) -> Tensor:
    """Average the outputs for rotated and mirrored pictures; each output is turned back first.

    Errors differ between views, so the mean has smaller errors.

    Parameters
    ----------
    function : callable
        Called once per view with all `pictures`, turned to this view: (B, C, h, w) or, after an odd
        number of quarter turns, (B, C, w, h). Returns one batch of the same height and width.
    views : sequence of (int, bool)
        Number of quarter turns, and whether the picture is mirrored first; a selection from
        `VIEWS`.
    pictures : Tensor, (B, C, h, w)

    References
    ----------
    Enhanced prediction: Timofte et al. 2016, arXiv:1511.02228.

    Examples
    --------
    >>> x = torch.arange(6.0).view(1, 1, 2, 3)
    >>> torch.equal(self_ensemble(torch.square, VIEWS, x), x.square())
    True
    """
    outputs = []
    for turns, mirrored in views:
        seen = (
            torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1)).contiguous()
            for x in pictures
        )
        back = torch.rot90(function(*seen), -turns, (-2, -1))
        outputs.append(back.flip(-1) if mirrored else back)
    return sum(outputs[1:], outputs[0]) / len(outputs)


@dataclass(frozen=True)
class NoiseMaps:
    """Noise of each pixel, as a network with ``measures`` estimates it.

    Attributes
    ----------
    level, coarse, colored : Tensor, (B, 1, h, w)
        Standard deviation of the noise, for pixels in [-1, 1]; after averaging squares of 2x2
        pixels; and of the differences of neighboring channels, divided by the root of 2. For white
        noise, the second is half of the first, and the third equals the first.
    trust : Tensor, (B, 1, h, w)
        Logarithm of the inverse of the expected error of the levels' logarithms. It is low where
        texture or clipping hides the noise.
    """

    level: Tensor
    coarse: Tensor
    colored: Tensor
    trust: Tensor

    @classmethod
    def of(cls, output: Tensor) -> NoiseMaps:
        """Split the output (B, 4, h, w) of the network."""
        return cls(*output.split(1, dim=1))

    def levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three levels."""
        return self.level, self.coarse, self.colored


class RestorerConfig(Config):
    """Config of a restorer, in its ``config.json``."""

    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 176)  # channels at 1/2, 1/4, 1/8 of the picture's size
    # residual blocks per scale, on the way down and on the way up: one number for all scales, or
    # one for each
    blocks: int | tuple[int, ...] = 2
    # group norms, for predictions that depend on the content of a picture more than on its pixels
    normed: bool = False
    # predicts hidden pixels only, starting from an interpolation of known ones; known pixels stay
    # unchanged
    fills: bool = False
    # predicts a map of the damage, one channel in [-1, 1], instead of the restored picture
    finds: bool = False
    # predicts the noise level of each pixel (NoiseMaps) instead of the restored picture
    measures: bool = False
    corruption: str = ""  # that it was trained to undo; "pairs" if it was trained on pairs


def interpolated(x: Tensor, known: Tensor, levels: int = REACH) -> Tensor:
    """Interpolate hidden pixels by pull-push (Gortler et al. 1996).

    Known pixels are averaged at lower and lower resolutions. Then the averages are upsampled into
    the holes.

    Parameters
    ----------
    x : Tensor, (B, C, H, W)
        Sides are multiples of ``2**levels``.
    known : Tensor, (B, 1, H, W), in [0, 1]
    levels : int
        Number of halvings; a pixel farther than about ``2**levels`` from all known pixels becomes
        0.

    Examples
    --------
    >>> x = torch.ones(1, 1, 8, 8)
    >>> known = torch.zeros(1, 1, 8, 8); known[..., 3, 3] = 1
    >>> interpolated(x, known, 3).mean().item()
    1.0
    """
    x = x * known
    if levels == 0:
        return x
    weight = F.avg_pool2d(known, 2)
    coarse = interpolated(
        F.avg_pool2d(x, 2) / weight.clamp_min(1e-6), (4 * weight).clamp_max(1), levels - 1
    )
    return x + (1 - known) * F.interpolate(coarse, scale_factor=2, mode="bilinear")


class _Residual(nn.Module):
    def __init__(self, width: int, normed: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width), _conv(width, width)
        self.norm1, self.norm2 = (nn.GroupNorm(8, width) if normed else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.norm1 is None else F.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.relu(h if self.norm2 is None else self.norm2(h)))
        return out


def _conv(a: int, b: int) -> nn.Conv2d:
    layer = nn.Conv2d(a, b, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


class Restorer(nn.Module):
    """Network that restores a damaged picture, for the preconditioning ``direct``.

    Its input is the picture, the noise level and the planes of :func:`restorer_planes`.

    Parameters
    ----------
    config : RestorerConfig

    Examples
    --------
    >>> net = Restorer(RestorerConfig(widths=(8, 16), blocks=1))
    >>> net(torch.zeros(2, 3, 17, 30), torch.zeros(2), Condition()).shape
    torch.Size([2, 3, 17, 30])
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        if not widths or min(widths) < 1:
            raise ValueError(f"widths are {widths}; give at least 1 channel for each scale")
        blocks = (config.blocks,) * len(widths) if isinstance(config.blocks, int) else config.blocks
        if len(blocks) != len(widths):
            raise ValueError(f"blocks are given for {len(blocks)} scales, widths for {len(widths)}")
        stages = list(zip(widths, blocks, strict=True))
        self.head = _conv(4 * (config.channels + 1 + len(PLANES)), widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(*(_Residual(w, config.normed) for _ in range(many))) for w, many in stages
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2, bias=False)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2, bias=False)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(*(_Residual(w, config.normed) for _ in range(many)))
            for w, many in stages[:-1]
        )
        made = 1 if config.finds else 4 if config.measures else config.channels
        self.tail = _conv(widths[0], 4 * made)
        # residual branches and the last layer start small: the network starts as the identity
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, _Residual):
                    module.conv2.weight.mul_(0.1)
            self.tail.weight.mul_(0.01)

    def channels_last(self) -> Restorer:
        """Convert the weights in place to the channels-last memory format, and return the network.

        This allows the fastest convolution kernels.
        """
        for weights in self.parameters():
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last)
        return self

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this number of pixels."""
        return int(2 ** max(len(self.config.widths), REACH * self.config.fills))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """Restore `x` (B, C, H, W); with ``finds`` in the config, return a map of the damage
        (B, 1, H, W) in [-1, 1], where 1 is damage.

        `c_noise` is sigma per picture (B,) or per pixel (B, 1, H, W). Without ``condition.planes``
        (B, 4, H, W), everything counts as known.
        """
        joined, planes = self._joined(x, c_noise, condition)
        size = x.shape[-2:]
        if self.config.fills:
            initial = interpolated(
                joined[:, : x.shape[1]], joined[:, x.shape[1] + 1 : x.shape[1] + 2]
            )
            joined = torch.cat([initial, joined[:, x.shape[1] :]], dim=1)
            x = initial[..., : size[0], : size[1]]
        change: Tensor = F.pixel_shuffle(self.tail(self._features(joined)), 2)
        change = change[..., : size[0], : size[1]]
        if self.config.finds:
            return (change / 2).tanh()  # rescaled to 0 to 1: the logistic function of the change
        if self.config.measures:
            return change
        return x + (1 - planes[:, :1]) * change if self.config.fills else x + change

    def _joined(self, x: Tensor, c_noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the input of the first layer, padded to `multiple`, and the planes."""
        size = x.shape[-2:]
        planes = (
            x.new_ones(len(x), len(PLANES), *size)
            if condition.planes is None
            else condition.planes.to(x)
        )
        level = c_noise if c_noise.ndim == 4 else c_noise[:, None, None, None]
        noise = level.to(x).expand(-1, 1, *size)
        short = [-n % self.multiple for n in size]
        joined = F.pad(
            torch.cat([x, noise, planes], dim=1), (0, short[1], 0, short[0]), mode="replicate"
        )
        return joined, planes

    def _features(self, joined: Tensor) -> Tensor:
        """Compute the input of the last layer: features at half the size of `joined`."""
        h = self.head(F.pixel_unshuffle(joined, 2))
        skips = []
        for k, stage in enumerate(self.down):
            h = stage(h)
            if k < len(self.shrink):
                skips.append(h)
                h = self.shrink[k](h)
        for k in reversed(range(len(self.up))):
            h = self.up[k](self.grow[k](h) + skips[k])
        out: Tensor = h
        return out
