"""Train what guesses colors: a restorer that says how likely each of some colors is in each pixel.

The mean of all colors that a thing may have is brown. A network that is asked for classes of color
can say "red or blue", and rare colors count more than they occur (Zhang et al. 2016,
arXiv:1603.08511, sections 2.1 and 2.2). Each color is split among the four of the grid around it,
so the mean of the classes is the color itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sfumato.corruption.color import Grayscale
from sfumato.denoiser.restorer import color_grid, plane_of, restorer_planes
from sfumato.train.restorer import RestorerJob
from sfumato.types import Condition

SAMPLE = 512  # crops in which colors are counted
EVEN = 0.5  # how much of the weight is that of colors that are all equally frequent
FADED = 0.3  # largest change of the black, the white and the middle of a print


class TintsJob(RestorerJob):
    """Cross-entropy between the colors of photographs and the classes that a network names.

    Parameters
    ----------
    As of :class:`RestorerJob`; the corruption is ``gray``.
    """

    def __init__(self, *given: object, **more: object) -> None:
        super().__init__(*given, **more)  # type: ignore[arg-type]
        random = torch.Generator().manual_seed(0)
        rows = torch.multinomial(self.weights.double(), SAMPLE, True, generator=random)
        counted = torch.cat([classes_of(self.batch(part, random)) for part in rows.split(64)])
        share = counted.mean(dim=(0, 2, 3))
        weight = 1 / ((1 - EVEN) * share + EVEN / len(share))
        self.rare = weight / (share * weight).sum()

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean cross-entropy in nats, in which rare colors weigh more."""
        x = self.batch(rows, random)
        gray = faded(Grayscale().apply(x), random)
        condition = Condition(planes=restorer_planes(torch.ones_like(gray), color=0.0))
        logits = self.module.logits(gray.expand(-1, 3, -1, -1), gray.new_zeros(len(x)), condition)
        wanted = classes_of(F.interpolate(x, logits.shape[-2:], mode="area"))
        said = -(wanted * logits.log_softmax(dim=1)).sum(dim=1)
        weight = (wanted * self.rare.to(x)[:, None, None]).sum(dim=1)
        return (weight * said).mean()


def classes_of(x: Tensor) -> Tensor:
    """The shares (B, K, H, W) of the colors of a grid in pictures (B, 3, H, W) in [-1, 1]: four of
    them each, whose mean is the color.
    """
    steps, step = color_grid()
    place = (plane_of(x) / step + steps).clamp(0, 2 * steps - 1e-4)
    low, part = place.floor().long(), place - place.floor()
    side = 2 * steps + 1
    out = x.new_zeros(len(x), side * side, *x.shape[-2:])
    for down in (0, 1):
        for across in (0, 1):
            share = (part[:, 0] if down else 1 - part[:, 0]) * (
                part[:, 1] if across else 1 - part[:, 1]
            )
            index = (low[:, 0] + down) * side + low[:, 1] + across
            out.scatter_add_(1, index[:, None], share[:, None])
    return out


def faded(gray: Tensor, random: Generator) -> Tensor:
    """Luminance (B, 1, H, W) as prints have it: another black, white and middle, the same in all of
    a picture.
    """
    black, white, middle = FADED * torch.rand((3, len(gray), 1, 1, 1), generator=random).to(gray)
    share = ((gray + 1) / 2).clamp(0, 1) ** (1 + 2 * (middle - FADED / 2))
    out: Tensor = 2 * (black / 2 + (1 - (black + white) / 2) * share) - 1
    return out
