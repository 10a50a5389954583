"""Train a restorer on photographs with synthetic corruptions.

The network also gets input channels that describe each corruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.corruption.base import draw, parse, parts_of
from sfumato.corruption.color import Grayscale
from sfumato.corruption.jpeg import JPEG
from sfumato.corruption.mask import Mask
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.data.samples import find
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import (
    VIEWS,
    Restorer,
    RestorerConfig,
    restorer_planes,
    self_ensemble,
)
from sfumato.errors import DataError, PictureError
from sfumato.train.loss import Measure, denoising_loss, squared
from sfumato.types import Condition, Corrupted, Corruption, Progress, Reporting

SCALES = (1.0, 0.67, 0.45)
# weight of a teacher's output in the target (the clean picture has the rest), and number of views
# (of eight) that the output is averaged over
TAUGHT, VIEWED = 0.7, 2
LONGEST = 1500  # longest side of a photo in pixels: all photos are held in memory


def read_photos(
    source: Path, smallest: int, longest: int = LONGEST
) -> Reporting[tuple[list[NDArray[np.uint8]], list[str], list[float]]]:
    """Read photographs (3, H, W) whose sides are at least `smallest` pixels.

    This is a generator: it yields progress and returns the result.

    A photo is first shrunk so that no side is longer than `longest`. Smaller copies are then added:
    per pixel, they show more detail, and less of the photo's noise and compression artifacts.

    Returns
    -------
    photos, skipped, weights
        The photos, a sentence for each photo that was left out, and the sampling weight of each
        photo.

    Raises
    ------
    DataError
        If no photo is left.
    """
    photos, skipped, often = [], [], []
    samples = list(find(source))
    for done, sample in enumerate(samples):
        yield Progress("reading photos", done, len(samples))
        try:
            picture = image.read(sample.read())
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        except (PictureError, OSError) as error:
            skipped.append(f"{sample.name}: {error}")
            continue
        if min(picture.size) < smallest:
            skipped.append(
                f"{sample.name}: {picture.width}x{picture.height} is smaller than the crops of "
                f"{smallest}x{smallest}"
            )
            continue
        for size in ((round(picture.width * s), round(picture.height * s)) for s in SCALES):
            if min(size) >= smallest:
                photos.append(
                    np.ascontiguousarray(
                        np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).transpose(
                            2, 0, 1
                        )
                    )
                )
                often.append(sample.weight)
    if not photos:
        raise DataError(f"{source} has no photograph to train on; first: {skipped[0]}")
    return photos, skipped, often


@dataclass(frozen=True)
class Measured:
    """Wraps a corruption: the result has the size of the picture, and three channels.

    Attributes
    ----------
    corruption : Corruption
        A corruption with fixed parameters (:func:`sfumato.corruption.base.draw`).
    """

    corruption: Corruption

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Corrupt `x`; enlarge a small result, copy gray to 3 channels, set hidden pixels to 0."""
        out = self.corruption(x, generator=generator)
        y = (
            out.y
            if out.y.shape[-2:] == x.shape[-2:]
            else interpolate(out.y, (x.shape[-2], x.shape[-1]))
        )
        return Corrupted(y.expand(-1, 3, -1, -1) * self.planes(x)[:, :1], out.sigma)

    def planes(self, x: Tensor) -> Tensor:
        """Planes (B, 4, H, W) that describe the corruption, for pictures of the shape of `x`."""
        known, color, detail, quality = x.new_ones(len(x), 1, *x.shape[-2:]), 1.0, 1.0, 1.0
        for part in parts_of(self.corruption):
            if isinstance(part, Mask):
                known = part.apply(known)
            elif isinstance(part, Downscale):
                known, detail = (part.apply(known) > 0.999).to(x), detail / part.factor
            elif isinstance(part, Grayscale):
                color = 0.0
            elif isinstance(part, JPEG):
                quality = part.low / 100
        if known.shape[-2:] != x.shape[-2:]:
            known = F.interpolate(known, size=x.shape[-2:])
        return restorer_planes(known, color, detail, quality)


class RestorerJob:
    """The denoising objective on random crops, with one corruption per batch.

    The preconditioning is ``direct``: the network's output is the estimate.

    Parameters
    ----------
    config : RestorerConfig
    photos : list of array, (3, H, W), uint8
    corruptions : sequence of str
        Corruptions in string form (see :func:`sfumato.parse`); one of them is sampled per batch.
    crop : int
        Side of the crops in pixels.
    gray : float
        Share of the batches whose photos are converted to gray first: gray input, gray target.
    turned : bool
        Also rotate crops by multiples of 90 degrees. Turn this off if the orientation matters, as
        it does for colorization.
    measure : callable, optional
        Minimize the mean of this error instead of the mean logarithm of the squared error.
    often : sequence of float, optional
        Sampling weight of each photo. It is multiplied by the fourth root of the number of pixels,
        because large photos show more.
    teacher : Denoiser, optional
        A trained restorer whose outputs, averaged over two random mirrored or rotated versions of
        the input, are part of the target. The outputs contain only detail that can be inferred from
        the input; the clean picture also contains other detail, which is random for the student.
        With the outputs in it, the target is less random (Hinton et al. 2015, arXiv:1503.02531;
        Furlanello et al. 2018, arXiv:1805.04770, for a teacher of the same kind as the student).
    """

    def __init__(
        self,
        config: RestorerConfig,
        photos: list[NDArray[np.uint8]],
        corruptions: Sequence[str],
        crop: int,
        gray: float = 0.25,
        turned: bool = True,
        measure: Measure | None = None,
        often: Sequence[float] | None = None,
        teacher: Denoiser | None = None,
    ) -> None:
        self.module = Restorer(config).channels_last()
        self.denoiser = Denoiser(self.module, "direct")
        self.photos, self.crop, self.gray, self.turned = photos, crop, gray, turned
        self.measure, self.teacher = measure, teacher
        self.corruptions = [parse(c.strip()) for c in corruptions]
        self.weights = torch.tensor([float(p.shape[1] * p.shape[2]) for p in photos]) ** 0.25
        if often is not None:
            self.weights = self.weights * torch.tensor(often)

    def batch(self, rows: Tensor, random: Generator) -> Tensor:
        """Random crops (B, 3, crop, crop) in [-1, 1], mirrored and, if `turned`, also rotated."""
        draws = torch.rand((len(rows), 4), generator=random).tolist()
        crops = []
        for row, (top, left, mirror, turn) in zip(rows.tolist(), draws, strict=True):
            photo, side = self.photos[row], self.crop
            y, x = int(top * (photo.shape[1] - side + 1)), int(left * (photo.shape[2] - side + 1))
            crop = photo[:, y : y + side, x : x + side]
            crops.append(
                np.rot90(
                    crop[:, :, ::-1] if mirror < 0.5 else crop,
                    int(4 * turn) if self.turned else 0,
                    axes=(1, 2),
                )
            )
        return image.from_bytes(torch.from_numpy(np.stack(crops))).to(
            self.module.head.weight.device
        )

    def drawn(self, rows: Tensor, random: Generator) -> tuple[Tensor, Corruption, Condition]:
        """Clean crops, the corruption to apply to them, and the condition that describes it."""
        x = self.batch(rows, random)
        if float(torch.rand((), generator=random)) < self.gray:
            x = Grayscale().apply(x)
        chosen = self.corruptions[int(torch.randint(len(self.corruptions), (), generator=random))]
        measured = Measured(draw(chosen, x, random))
        with torch.autocast(x.device.type, enabled=False):
            return x, measured, Condition(planes=measured.planes(x))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean logarithm of the squared error of restored crops, or the mean of `measure`."""
        x, corruption, condition = self.drawn(rows, random)
        measure, logarithmic = self.measure or squared, self.measure is None
        teach = (
            None
            if self.teacher is None
            else lambda x, seen: self.taught(x, seen, condition, random)
        )
        return denoising_loss(
            self.denoiser,
            x,
            corruption,
            condition,
            generator=random,
            measure=measure,
            logarithmic=logarithmic,
            teach=teach,
        )

    @torch.no_grad()
    def taught(self, x: Tensor, seen: Corrupted, condition: Condition, random: Generator) -> Tensor:
        """Target with a teacher: a weighted mean of the teacher's output and the clean crops."""
        assert self.teacher is not None
        teacher = self.teacher.to(x.device)
        planes = (
            restorer_planes(torch.ones_like(seen.y[:, :1]))
            if condition.planes is None
            else condition.planes
        )
        views = [VIEWS[k] for k in torch.randperm(len(VIEWS), generator=random)[:VIEWED].tolist()]
        target = self_ensemble(
            lambda y, told_of: teacher(y, seen.sigma, Condition(planes=told_of)),
            views,
            seen.y,
            planes,
        )
        return TAUGHT * target + (1 - TAUGHT) * x

    def preview(self) -> Image.Image:
        """Return rows of originals, corrupted inputs and results, in turn."""
        random = torch.Generator().manual_seed(0)
        rows = torch.arange(min(8, len(self.photos)))
        shown = []
        for _ in range(8):
            x, corruption, condition = self.drawn(rows, random)
            seen = corruption(x, generator=random)
            shown += [
                x.expand_as(seen.y),
                seen.y,
                self.denoiser(seen.y, seen.sigma, condition).expand_as(seen.y),
            ]
        return image.sheet(image.to_pictures(torch.cat(shown)), columns=len(rows))
