"""Train a network that measures the noise of photos, on photos with synthetic noise.

For each pixel, the network outputs three noise levels and its trust in them; see
:class:`NoiseMaps`. The true levels are computed from the noise itself, so noise of any kind can be
used, also if it went through JPEG compression.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.base import Compose, parts_of
from sfumato.corruption.color import Grayscale
from sfumato.denoiser.restorer import CELL, NoiseMaps
from sfumato.train.restorer import RestorerJob
from sfumato.types import Condition, Corruption

SLIGHT = 1 / 127.5  # levels well below this are all alike: such noise cannot be seen
GROUPS = 4  # a batch has so many groups of pictures; each group has a corruption of its own
HARD, HARDEST = 0.25, 0.15  # share of the groups with strong contrast; largest share made black


class MeasurerJob(RestorerJob):
    """The objective: estimate the noise levels of random crops.

    Parameters
    ----------
    As in :class:`RestorerJob`, but `measure` and `teacher` are not used. Each corruption begins
    with a kind of noise; further parts, such as JPEG, are applied to the noisy picture.
    """

    def drawn_noise(self, rows: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """Noisy crops (B, 3, h, w) in [-1, 1], and their noise, which is not clipped."""
        seen, noise = [], []
        for part in rows.chunk(GROUPS):
            x = self.batch(part, random)
            gray, hard, share = torch.rand(3, generator=random).tolist()
            x = Grayscale().apply(x) if gray < self.gray else x
            x = _hardened(x, HARDEST * share) if hard < HARD else x
            place = int(torch.randint(len(self.corruptions), (), generator=random))
            made, apart = _noisy(x, self.corruptions[place], random)
            seen.append(made.expand(-1, 3, -1, -1))
            noise.append(apart.expand(-1, 3, -1, -1))
        return torch.cat(seen), torch.cat(noise)

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Negative log-likelihood of the levels' logarithms, and the error of whole crops.

        The logarithms of the levels of a cell have a Laplace distribution around the estimates; its
        width is the inverse of the exponential of the trust (Kendall & Gal 2017, equation 8, with
        absolute in place of squared errors). The level of a whole crop is the root mean square over
        its cells.
        """
        with torch.autocast(rows.device.type, enabled=False):
            seen, noise = self.drawn_noise(rows, random)
        maps = NoiseMaps.of(self.denoiser(seen, seen.new_zeros(len(seen)), Condition()).float())
        found = torch.stack([_cells(level.square()) for level in maps.levels()])
        true = torch.stack([_cells(squares) for squares in true_levels(noise)])
        error = _log_ratio(found, true).mean(dim=0)
        trust = _cells(maps.trust)
        whole = _log_ratio(found.mean(dim=(2, 3, 4)), true.mean(dim=(2, 3, 4)))
        return (trust.exp() * error - trust).mean() + whole.mean()

    def preview(self) -> Image.Image:
        """Return rows of noisy pictures, their true levels and the measured levels, in turn."""
        random = torch.Generator().manual_seed(0)
        rows = torch.arange(min(8, len(self.photos)))
        shown = []
        for _ in range(8):
            seen, noise = self.drawn_noise(rows, random)
            maps = NoiseMaps.of(self.denoiser(seen, seen.new_zeros(len(seen)), Condition()))
            true = F.interpolate(_cells(true_levels(noise)[0]), size=seen.shape[-2:]).sqrt()
            shown += [seen, *((4 * m - 1).expand_as(seen) for m in (true, maps.level.abs()))]
        return image.sheet(image.to_pictures(torch.cat(shown)), columns=len(rows))


def true_levels(noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared noise (B, 1, h, w): over the channels, at half the size, of channel differences."""
    squares = noise.square().mean(dim=1, keepdim=True)
    half = F.avg_pool2d(noise, 2).square().mean(dim=1, keepdim=True)
    apart = noise.diff(dim=1).square().mean(dim=1, keepdim=True) / 2
    return squares, F.interpolate(half, scale_factor=2), apart


def _noisy(x: Tensor, corruption: Corruption, random: Generator) -> tuple[Tensor, Tensor]:
    """A noisy picture, as an 8-bit file stores it, and its noise."""
    first, *others = parts_of(corruption)
    y = first(x, generator=random).y
    if not others:
        return _stored(y), y - x
    later = Compose(tuple(others))
    state = random.get_state()
    made = later(_stored(y), generator=random).y
    random.set_state(state)  # the same JPEG quality for the clean picture
    return _stored(made), made - later(x, generator=random).y


def _stored(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _hardened(x: Tensor, share: float) -> Tensor:
    """Raise the contrast of each picture until this share is black, and as much is white."""
    flat = x.flatten(1)
    low, high = (flat.quantile(q, dim=1)[:, None, None, None] for q in (share, 1 - share))
    return (2 * (x - low) / (high - low).clamp_min(0.05) - 1).clamp(-1, 1)


def _cells(squares: Tensor) -> Tensor:
    return F.avg_pool2d(squares, CELL)


def _log_ratio(found: Tensor, true: Tensor) -> Tensor:
    """Absolute logarithm of the ratio of two noise levels, given their squares."""
    return ((found + SLIGHT**2) / (true + SLIGHT**2)).log().abs() / 2
