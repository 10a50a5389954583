"""Train what measures noise: a restorer whose clean picture is the level of noise in each pixel.

It is shown photographs with noise of many kinds and levels, of which the level is known: even, with
the grain of a film, growing with the light, stronger in one place than in another, cut off at black
and white, and under JPEG.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sfumato.corruption.base import Compose
from sfumato.corruption.noise import FilmGrain, GaussianNoise, PhotonNoise
from sfumato.denoiser.restorer import as_share
from sfumato.errors import OptionError
from sfumato.train.loss import absolute, denoising_loss
from sfumato.train.pairs import PairedCorruption
from sfumato.train.restorer import RestorerJob
from sfumato.types import Condition, Corruption

UNEVEN = 0.3  # share of the batches whose noise is stronger in one place than in another
HARD = 0.3  # share of the batches whose contrast is raised until parts are black and white


class LevelJob(RestorerJob):
    """The denoising objective on pictures of the noise level: the error of its logarithm.

    Parameters
    ----------
    As of :class:`RestorerJob`. Each corruption begins with ``noise``, ``grain`` or ``photons``;
    what follows, as JPEG, comes over the noise.
    """

    def drawn(self, rows: Tensor, random: Generator) -> tuple[Tensor, Corruption, Condition]:
        """Levels as shares, in [-1, 1], and the noisy photographs."""
        x = self.batch(rows, random)
        draws = torch.rand(3, generator=random).tolist()
        if draws[0] < self.gray:
            x = x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        if draws[1] < HARD:
            x = _hard(x, random)
        gain = _gain(x, random) if draws[2] < UNEVEN else torch.ones_like(x[:, :1])
        chosen = self.corruptions[int(torch.randint(len(self.corruptions), (), generator=random))]
        first, *others = chosen.parts if isinstance(chosen, Compose) else (chosen,)
        if not isinstance(first, GaussianNoise | FilmGrain | PhotonNoise):
            raise OptionError(
                f'noise is learned to be measured; "{chosen}" does not begin with noise, grain or '
                "photons"
            )
        out = first(x, generator=random)
        level = gain * out.sigma.to(x)[:, None, None, None]
        if isinstance(first, PhotonNoise):
            level = level * first.share(x).square().mean(dim=1, keepdim=True).sqrt()
        y = in_bytes(x + gain * (out.y - x))
        if others:
            y, left = _after(Compose(tuple(others)), x, y, random)
            level = level * left
        return 2 * as_share(level) - 1, PairedCorruption(y), Condition()

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean absolute error of the logarithm of the level."""
        x, corruption, condition = self.drawn(rows, random)
        return denoising_loss(
            self.denoiser, x, corruption, condition, generator=random, measure=absolute
        )


def in_bytes(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] as a file of 8 bits keeps them."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _after(corruption: Compose, x: Tensor, y: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures after a corruption that takes some of the noise away, and the share (B, 1, 1,
    1) of the level that is left.
    """
    from sfumato.corruption.base import draw

    fixed = draw(corruption, x, random)
    plain, noisy = (in_bytes(fixed(part, generator=random).y) for part in (x, y))
    left, had = ((b - a).square().mean(dim=(1, 2, 3)).sqrt() for a, b in ((plain, noisy), (x, y)))
    return noisy, (left / had.clamp_min(1e-6))[:, None, None, None]


def _hard(x: Tensor, random: Generator) -> Tensor:
    """Contrast so hard that up to a fifth of the pixels is black and as many are white."""
    ends = 0.2 * torch.rand((2, len(x)), generator=random)
    values = x.flatten(1)
    low = torch.stack([row.quantile(float(q)) for row, q in zip(values, ends[0], strict=True)])
    high = torch.stack([row.quantile(1 - float(q)) for row, q in zip(values, ends[1], strict=True)])
    low, high = (end[:, None, None, None] for end in (low, high))
    return (2 * (x - low) / (high - low).clamp_min(0.2) - 1).clamp(-1, 1)


def _gain(x: Tensor, random: Generator) -> Tensor:
    """A smooth factor (B, 1, H, W) between about 1/3 and 3."""
    coarse = torch.rand((len(x), 1, 3, 3), generator=random).to(x) * 2 - 1
    return F.interpolate(1.1 * coarse, x.shape[-2:], mode="bilinear", align_corners=True).exp()
