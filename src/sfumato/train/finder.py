"""Train a finder, a restorer that outputs a mask of the damage, on prints with synthetic damage.

The mask takes the place of the clean picture in the objective. The prints also show things that
look like damage but are not: letters, grids and rings.

A finder runs twice. In the second pass, the input channel of known pixels is low where the
first pass found damage. The network can thus tell continued lines from isolated marks (Tu & Bai
2010, auto-context; Chen et al. 2022, arXiv:2208.04202, self-conditioning).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.base import Compose, parts_of
from sfumato.corruption.blur import Blur
from sfumato.corruption.noise import FilmGrain
from sfumato.corruption.scratch import Scratches
from sfumato.denoiser.restorer import restorer_planes
from sfumato.train.loss import cross_entropy, denoising_loss
from sfumato.train.pairs import PairedCorruption
from sfumato.train.restorer import RestorerJob
from sfumato.types import Condition, Corruption

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,()©-"
ADDED = 0.35  # share of the crops with drawn objects that only look like damage
SOFT, GRAINY = 0.3, 0.3  # shares of the prints that are blurred, and that have film grain
GRAIN = 1.0, 14.0  # range of the grain's noise level, for pixels of 0 to 255
AGAIN = 0.5  # share of the batches that train the second pass
Color = tuple[int, ...]
SEPIA = (1.0, 0.86, 0.64)  # color of white in a print that turned brown


class FinderJob(RestorerJob):
    """The denoising objective on masks of the damage: cross-entropy of true and estimated masks.

    Parameters
    ----------
    As in :class:`RestorerJob`, but `measure` and `teacher` are not used. Each corruption begins
    with ``scratches``; further parts, such as noise and JPEG, are applied to the scratched picture.
    """

    def drawn(self, rows: Tensor, random: Generator) -> tuple[Tensor, Corruption, Condition]:
        """Masks of the damage in [-1, 1], a corruption, and the condition.

        The corruption returns the damaged prints.
        """
        x = self.batch(rows, random)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=random)))
        x = torch.stack([_printed(picture, self.gray, rng) for picture in x])
        chosen = self.corruptions[int(torch.randint(len(self.corruptions), (), generator=random))]
        first, *others = parts_of(chosen)
        assert isinstance(first, Scratches)
        damaged, cover = first.marked(x, random)
        seen = Compose(tuple(others))(damaged.y.clamp(-1, 1), generator=random).y
        known = torch.ones_like(cover)
        if float(torch.rand((), generator=random)) < AGAIN:
            with torch.no_grad():
                condition = Condition(planes=restorer_planes(known))
                known = (1 - self.denoiser(seen, seen.new_zeros(len(x)), condition)) / 2
        return 2 * cover - 1, PairedCorruption(seen), Condition(planes=restorer_planes(known))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean cross-entropy over the pixels, in nats."""
        x, corruption, condition = self.drawn(rows, random)
        return denoising_loss(
            self.denoiser, x, corruption, condition, generator=random, measure=cross_entropy
        )


def _printed(picture: Tensor, gray: float, rng: np.random.Generator) -> Tensor:
    """Make a photograph (3, H, W) look like an old print.

    The print is faded, and it is gray, brown or in color. Some prints also get letters, a grid or
    rings; some get blur or grain.
    """
    x = ((picture + 1) / 2) ** rng.uniform(0.7, 1.5)
    if rng.random() < ADDED:
        x = _with_things(x, rng)
    if rng.random() < gray:
        x = x.mean(dim=0, keepdim=True).expand(3, -1, -1)
        if rng.random() < 0.35:
            x = x * torch.tensor(SEPIA).to(x)[:, None, None]
    black, white = rng.uniform(0, 0.2), rng.uniform(0.75, 1)
    print_ = 2 * (black + (white - black) * x) - 1
    if rng.random() < SOFT:
        print_ = Blur(rng.uniform(0.5, 1.5)).apply(print_[None])[0]
    if rng.random() < GRAINY:
        grain, seed = FilmGrain(*GRAIN, rng.uniform(0.3, 1.0)), int(rng.integers(2**31))
        print_ = grain(print_[None], generator=Generator().manual_seed(seed)).y[0]
    return print_


def _with_things(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw letters, a grid of bars or some rings: they look like damage but are not."""
    picture = image.to_pictures(2 * x[None] - 1)[0]
    gray = (int(rng.integers(0, 256)),) * 3
    color = tuple(int(v) for v in rng.integers(0, 256, 3)) if rng.random() < 0.3 else gray
    draw = (_letters, _grid, _rings)[int(rng.integers(3))]
    draw(ImageDraw.Draw(picture), picture.size, color, rng)
    if rng.random() < 0.3:
        degrees = math.degrees(rng.normal(0, 0.1))
        picture = picture.rotate(degrees, Image.Resampling.BICUBIC)
    return (image.to_tensor(picture)[0].to(x) + 1) / 2


def _letters(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], color: Color, rng: np.random.Generator
) -> None:
    text = "".join(rng.choice(list(LETTERS), 24))
    font = ImageFont.load_default(size=float(rng.uniform(8, 30)))
    for _ in range(rng.integers(1, 4)):
        at = rng.uniform(-0.3 * size[0], 0.7 * size[0]), rng.uniform(0, 0.9 * size[1])
        pen.text(at, text, fill=color, font=font)


def _grid(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], color: Color, rng: np.random.Generator
) -> None:
    (wide, tall), width = size, int(rng.integers(1, 6))
    gap, start = int(rng.integers(8, 40)), int(rng.integers(0, 20))
    for at in range(start, wide, gap):
        pen.line([(at, 0), (at, tall)], fill=color, width=width)
    if rng.random() < 0.5:
        for at in range(start, tall, gap * int(rng.integers(1, 3))):
            pen.line([(0, at), (wide, at)], fill=color, width=width)


def _rings(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], color: Color, rng: np.random.Generator
) -> None:
    for _ in range(rng.integers(1, 4)):
        center, half = rng.uniform(0, size), rng.uniform(4, 20, 2)
        filled, width = color if rng.random() < 0.3 else None, int(rng.integers(1, 6))
        box = (*(center - half), *(center + half))
        pen.ellipse(box, fill=filled, outline=color, width=width)
