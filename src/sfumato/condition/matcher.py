"""The matcher: embeds pictures and texts in one space to score how well they match (CLIP; Radford
et al. 2021, arXiv:2103.00020).

Texts are given as pooled states of the diffusion model's text transformer. So this network holds
only a picture encoder, a projection for pictures and a projection for texts. The matcher ranks the
candidate pictures generated for a prompt, and finds pictures by words.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.layers import ResnetBlock


class MatcherConfig(Config):
    """Config in ``matcher/config.json``."""

    size: int = 64  # side in pixels to which pictures are resized
    patch: int = 4  # side of a patch in pixels; each patch is one position
    widths: tuple[int, ...] = (64, 128, 256)  # channels at 1, 1/2, 1/4 of the patch grid's size
    blocks: tuple[int, ...] = (2, 3, 2)  # residual blocks on each scale
    groups: int = 16
    text_width: int = 256  # size of the text transformer's states
    width: int = 256  # number of dimensions of the shared space


class Matcher(nn.Module):
    """Network from pictures and pooled text states to unit vectors of one space.

    Parameters
    ----------
    config : MatcherConfig

    Examples
    --------
    >>> import torch
    >>> net = Matcher(MatcherConfig(widths=(16, 32), blocks=(1, 1), width=8))
    >>> net.pictures(torch.zeros(2, 3, 50, 80)).shape, net.texts(torch.ones(5, 256)).shape
    (torch.Size([2, 8]), torch.Size([5, 8]))
    """

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.config = config
        smallest = config.patch * 2 ** (len(config.widths) - 1)
        if config.size < smallest:
            raise ValueError(f"size {config.size} is too small; at least {smallest} is needed")
        layers: list[nn.Module] = [
            nn.Conv2d(3, config.widths[0], config.patch, stride=config.patch)
        ]
        before = config.widths[0]
        for k, (width, many) in enumerate(zip(config.widths, config.blocks, strict=True)):
            layers += [nn.Conv2d(before, width, 2, stride=2)] if k else []
            layers += [
                ResnetBlock(width, width, None, groups=config.groups, eps=1e-5) for _ in range(many)
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(before)
        self.to_space = nn.Linear(before, config.width)
        self.from_text = nn.Sequential(
            nn.Linear(config.text_width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )

    def pictures(self, x: Tensor) -> Tensor:
        """Embed pictures (B, 3, H, W) in [-1, 1], of any size, as unit vectors (B, width)."""
        side = self.config.size
        if x.shape[-2:] != (side, side):
            x = F.interpolate(
                x, size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )
        return F.normalize(self.to_space(self.norm(self.body(x).mean(dim=(2, 3)))).float(), dim=-1)

    def texts(self, pooled: Tensor) -> Tensor:
        """Embed pooled text states (B, text_width) as unit vectors (B, width)."""
        return F.normalize(self.from_text(pooled).float(), dim=-1)
