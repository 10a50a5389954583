"""Restore: what is known of a damaged photograph in, the whole photograph out.

What is missing is filled first, then noise and the marks of JPEG are undone, then the picture is
enlarged, each by the network that is best at it; a network of one's own undoes all together, in one
run. A network is told the noise level, which pixels are known, how much larger the result shall be
and how hard it was compressed. What was measured and is not to change stays as it is in the file.
The work goes window by window, so memory does not grow with the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato import __version__
from sfumato.corruption.color import Grayscale
from sfumato.corruption.resample import Downscale, magnify
from sfumato.data.photo import Photo, read
from sfumato.denoiser.restorer import (
    FILLS_MARGIN,
    MARGIN,
    TILE,
    VIEWS,
    restorer_planes,
    self_ensemble,
)
from sfumato.errors import OptionError
from sfumato.space.tile import windowed
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import colorize, luminance, tone, toned
from sfumato.tasks.restore.noise import SAMPLE, noise_level, quality
from sfumato.tasks.restore.options import HOW, Only, RestoreOptions
from sfumato.types import Progress


class Engine(Protocol):
    """What makes anew what was lost."""

    @property
    def in_turn(self) -> bool:
        """Whether it has a network for each kind of damage; else one undoes all together."""
        ...

    def sha256(self, part: str) -> str:
        """Digest of the weights that undo a part: "noise", "gaps" or "size" alone, "tints" (color),
        "photos" (all others).
        """
        ...

    def repair(self, y: Tensor, planes: Tensor, sigma: float, only: Only = None) -> Tensor:
        """Damaged picture (1, 3, h, w) in [-1, 1], planes (1, 4, h, w), noise level in that frame
        -> (1, 3, h, w).

        `only` says what is all there is to undo in the whole picture: there may be a better network
        for it.
        """
        ...

    def unscratch(self, y: Tensor) -> Tensor:
        """Scratched picture (1, 3, h, w) in [-1, 1], untold where -> (1, 3, h, w) without."""
        ...

    def colors(self, gray: Tensor) -> Tensor:
        """Luminance (1, 1, h, w) in [-1, 1], of any size -> chroma: what is to be added to it, (1,
        3, h, w).
        """
        ...


@dataclass(frozen=True)
class Restored:
    """A restored photo.

    Attributes
    ----------
    photo : Photo
    report : dict
        What was done, in numbers: the noise level, the share of pixels made anew, the largest
        change of the others, the largest change of luminance, or the difference between the shrunk
        result and the input.
    """

    photo: Photo
    report: dict[str, Any]


def restore(
    photo: Photo | Path | str, options: RestoreOptions, engine: Engine | None = None
) -> Restored:
    """Undo what is asked for.

    Parameters
    ----------
    photo : Photo, or path of a picture
    options : RestoreOptions
    engine : Engine, optional
        What makes the lost parts anew; the bundled networks by default.

    Raises
    ------
    OptionError
        For a mask that does not fit or hides nothing or all, for a hint outside of the picture, and
        for `clean` without an engine.
    PictureError
        If the file cannot be read.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(128, 20, (32, 48, 3))
    >>> noisy = Photo(noise.clip(0, 255).astype(np.uint8))
    >>> made = restore(noisy, RestoreOptions(denoise="auto"))
    >>> bool(made.photo.values.std() < 10), 15 < made.report["sigma"] < 25
    (True, True)
    """
    if engine is None:
        from sfumato.tasks.restore.networks import RestorationNetworks

        if options.clean and options.model is None:
            raise OptionError(
                "--clean goes with --model: a folder written by sfumato train restorer"
            )
        engine = RestorationNetworks(
            options.model, options.device, options.dtype, repairs=options.clean
        )
    *_, last = walk(photo if isinstance(photo, Photo) else read(photo), options, engine)
    assert isinstance(last, Restored)
    return last


def walk(photo: Photo, options: RestoreOptions, engine: Engine) -> Iterator[Progress | Restored]:
    """Undo what is asked for, and yield after each window; the last event is the result."""
    _check_hints(photo, options)
    # as it is: what is filled has no noise
    level, jpeg = noise_level(photo, options), quality(photo, options)
    stages = (
        options.in_turn()
        if engine.in_turn and not options.clean
        else [options]
        if options.structural
        else []
    )
    total, done = sum(_windows(_size(photo, stage)) for stage in stages), 0
    made, job = photo.opaque(), None
    said: dict[str, Any] = {}
    for stage in stages:
        job = _Job(made, stage, engine, level, jpeg)
        out: NDArray[Any] = np.empty((*job.size, job.channels), photo.values.dtype)
        for rows, columns, part in windowed(job.window, job.size, tile=TILE, margin=job.margin):
            out[rows, columns] = job.kept(made.stored(part[0].numpy()), rows, columns)
            done += 1
            yield Progress("restoring", done, total)
        made = made.with_values(out)
        said |= job.said(made)
    if options.colorize:
        made = colorize(made, options.hints, options.enlarge or 1.0, engine.colors)
    made = _with_clear(made, photo)
    yield Restored(
        made, _report(photo, made, options, stages, engine, said, job.hidden if job else None)
    )


def _with_clear(made: Photo, photo: Photo) -> Photo:
    """The result with the file's own colors where it is clear, if it has its size and channels."""
    if photo.alpha is None or made.values.shape != photo.values.shape:
        return made
    return made.with_values(np.where(photo.alpha[..., None] == 0, photo.values, made.values))


def _check_hints(photo: Photo, options: RestoreOptions) -> None:
    wide, tall = photo.size
    for x, y, _ in options.hints:
        if not (0 <= x < wide and 0 <= y < tall):
            raise OptionError(
                f"the hint at {x},{y} does not lie within the picture of {wide}x{tall} pixels"
            )


def _size(photo: Photo, options: RestoreOptions) -> tuple[int, int]:
    """Height and width of the result."""
    wide, tall = photo.size
    return round(tall * (options.enlarge or 1)), round(wide * (options.enlarge or 1))


def _windows(size: tuple[int, int]) -> int:
    """How many there are."""
    return -(-size[0] // TILE) * -(-size[1] // TILE)


def _report(
    photo: Photo,
    made: Photo,
    options: RestoreOptions,
    stages: list[RestoreOptions],
    engine: Engine,
    said: dict[str, Any],
    hidden: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """What was done, in numbers; what holds of one stage alone is said where it is all there is."""
    parts = [
        *(stage.only or "photos" for stage in stages),
        *(["tints"] if options.colorize else []),
    ]
    weights = {part: engine.sha256(part) for part in parts}
    asked = options.model_dump(mode="json", exclude_defaults=True, exclude=set(HOW))
    out: dict[str, Any] = {
        "task": "restore",
        "version": __version__,
        "model_sha256": weights if len(weights) > 1 else next(iter(weights.values())),
        **asked,
    }
    if options.only != "gaps" or options.colorize:
        said.pop("largest_change_elsewhere", None)
    if options.denoise is not None:
        said.pop("shrunk_difference", None)
    if options.colorize and (options.only == "gaps" or not options.structural):
        said["largest_change_of_luminance"] = round(
            _change_of_luminance(made, photo, hidden) * 255 / made.top, 3
        )
    return out | said


class _Job:
    """One photo, what is known about it, and what makes the rest anew."""

    def __init__(
        self, photo: Photo, options: RestoreOptions, engine: Engine, level: float, jpeg: int
    ) -> None:
        self.photo, self.options, self.engine = photo, options, engine
        self.hidden = masks.find(photo, options, engine.unscratch)
        self.level = level if options.denoise is not None else 0.0
        self.quality, self.size = jpeg if options.dejpeg is not None else 100, _size(photo, options)
        # a sepia print is restored in gray and keeps its tone
        self.tone = None if options.colorize else tone(photo, self.hidden)
        self.gray = options.colorize or photo.gray or self.tone is not None
        self.channels = 1 if options.colorize else photo.values.shape[2]
        # all known pixels stay as they are, but for color where that is asked for
        self.only_fills = options.only == "gaps"
        # pixels around a window that the network is shown
        self.margin = FILLS_MARGIN if self.only_fills else MARGIN

    def window(self, rows: slice, columns: slice) -> Tensor:
        """The restored picture (1, channels, h, w) in a window of the result."""
        if self.only_fills and self.hidden is not None and not self.hidden[rows, columns].any():
            return self._measured(rows, columns)[0].expand(-1, self.channels, -1, -1)  # as it is
        y, known = self._seen(rows, columns)
        planes = restorer_planes(
            known, detail=1 / (self.options.enlarge or 1), quality=self.quality / 100
        )
        made = answer(
            self.engine,
            y.expand(-1, 3, -1, -1) * known,
            planes,
            self.level,
            self.options.only,
            best=self.options.best,
        )
        if not self.gray:
            return made
        made = Grayscale().apply(made)
        return (
            made.expand(-1, self.channels, -1, -1) if self.tone is None else toned(made, self.tone)
        )

    def _seen(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """What of a window is measured, at the size of the result: values (1, C, h, w) and where
        they are known (1, 1, h, w).
        """
        if self.options.enlarge is None:
            return self._measured(rows, columns)
        (down, tall), (across, wide) = (
            magnify(small, large, window.start, window.stop)
            for small, large, window in zip(
                self.photo.values.shape, self.size, (rows, columns), strict=False
            )
        )
        y, known = self._measured(down, across)
        y, known = (tall.to(x) @ (x * known) @ wide.to(x).T for x in (y, known))
        return y, (known > 0.999).float()

    def _measured(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.photo.frame(rows, columns))[None]
        known = (
            torch.ones_like(x[:, :1])
            if self.hidden is None
            else torch.from_numpy(~self.hidden[rows, columns]).float()[None, None]
        )
        return (Grayscale().apply(x) if self.gray and x.shape[1] == 3 else x), known

    def kept(self, made: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Stored values of a window, where nothing but hidden parts was asked for the file's own
        values elsewhere.
        """
        if not self.only_fills or self.hidden is None:
            return made
        own = self.photo.values[rows, columns]
        if self.options.colorize:
            own = luminance(own).round().astype(own.dtype)[..., None]
        return np.where(self.hidden[rows, columns, None], made, own)

    def said(self, made: Photo) -> dict[str, Any]:
        """What was measured on the way."""
        options = self.options
        out: dict[str, Any] = {}
        if options.denoise is not None:
            out["sigma"] = round(self.level * 127.5, 2)
        if options.dejpeg is not None:
            out["quality"] = self.quality
        if self.hidden is not None:
            out["made_anew"] = round(float(self.hidden.mean()), 6)
        if self.only_fills and self.hidden is not None and not options.colorize:
            out["largest_change_elsewhere"] = _largest(made.values, self.photo.values, ~self.hidden)
        if options.enlarge is not None:
            out["shrunk_difference"] = round(
                _shrunk_difference(made, self.photo, options.enlarge), 3
            )
        return out


def answer(
    engine: Engine, y: Tensor, planes: Tensor, sigma: float, only: Only, *, best: bool = False
) -> Tensor:
    """What an engine makes of a window (1, 3, h, w).

    With `best`, the mean of what it makes of the window turned and mirrored in all eight ways.
    """
    return self_ensemble(
        lambda seen, told_of: engine.repair(seen, told_of, sigma, only),
        VIEWS if best else VIEWS[:1],
        y,
        planes,
    )


def _largest(made: NDArray[Any], before: NDArray[Any], where: NDArray[np.bool_]) -> int:
    """Largest difference of values at some pixels, row by row to save memory."""
    rows = (
        np.abs(a.astype(int) - b)[w].max(initial=0)
        for a, b, w in zip(made, before, where, strict=True)
    )
    return int(max(rows, default=0))


def _change_of_luminance(made: Photo, before: Photo, hidden: NDArray[np.bool_] | None) -> float:
    """Largest change of luminance where nothing was hidden, row by row to save memory."""
    known = np.ones(before.values.shape[:2], bool) if hidden is None else ~hidden
    rows = (
        np.abs(luminance(a) - luminance(b))[w].max(initial=0)
        for a, b, w in zip(made.values, before.values, known, strict=True)
    )
    return float(max(rows, default=0))


def _shrunk_difference(made: Photo, before: Photo, factor: float) -> float:
    """Mean difference, for values of 0 to 255, between the input and the result shrunk again; the
    middle of large pictures.

    Of luminance, where one of them is gray.
    """
    tall, wide = (min(n, SAMPLE // 2) for n in before.values.shape[:2])
    large = torch.from_numpy(
        made.frame(slice(0, round(tall * factor)), slice(0, round(wide * factor)))
    )[None]
    small = Downscale(factor).apply(large)[
        ..., : tall - 4 if tall > 4 else None, : wide - 4 if wide > 4 else None
    ]
    same = torch.from_numpy(before.frame(slice(0, small.shape[-2]), slice(0, small.shape[-1])))[
        None
    ]
    if made.gray or before.gray:
        small, same = (Grayscale().apply(x) if x.shape[1] == 3 else x for x in (small, same))
    return float((small[..., : same.shape[-2], : same.shape[-1]] - same).abs().mean()) * 127.5
