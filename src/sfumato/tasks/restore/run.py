"""Restore: what is known of a damaged photograph in, the whole photograph out.

What is missing is filled first, then noise and JPEG artifacts are removed, then the picture is
enlarged, each by the network that is best at it; a network of one's own undoes all together, in one
run. A network is told the noise level, which pixels are known, how much larger the result shall be
and how hard it was compressed. What was measured and is not to change stays as it is in the file.
The work goes window by window, so memory does not grow with the picture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.corruption.color import Grayscale
from sfumato.corruption.resample import magnify
from sfumato.data.photo import Photo, read
from sfumato.denoiser.restorer import (
    FILLS_MARGIN,
    MARGIN,
    PLANES,
    TILE,
    VIEWS,
    restorer_planes,
    self_ensemble,
)
from sfumato.errors import OptionError
from sfumato.space.tile import windows
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import colorize, deblock_chroma, luminance, tone, toned
from sfumato.tasks.restore.noise import Noise, measured_noise, quality
from sfumato.tasks.restore.options import Only, RestoreOptions
from sfumato.tasks.restore.patches import WIDE, Filled, complete, wide_holes
from sfumato.tasks.restore.report import largest_change, report, shrunk_difference
from sfumato.types import Progress


class Engine(Protocol):
    """What restores a picture: trained networks, or those of a test."""

    @property
    def has_specialists(self) -> bool:
        """Whether it has a network for each kind of damage; else one undoes all together."""
        ...

    def sha256(self, part: str) -> str:
        """Digest of the weights that undo a part: "noise", "gaps" or "size" alone, "tints" (color),
        "photos" (all others).
        """
        ...

    def repair(self, y: Tensor, planes: Tensor, sigma: float | Tensor, only: Only = None) -> Tensor:
        """Damaged picture (1, 3, h, w) in [-1, 1], planes (1, 4, h, w), noise level in that frame,
        one or of each pixel (1, 1, h, w) -> (1, 3, h, w).

        `only` says what is all there is to undo in the whole picture: there may be a better network
        for it.
        """
        ...

    def damage(self, y: Tensor) -> Tensor:
        """Picture (1, 3, h, w) in [-1, 1] -> the share of damage in each pixel, (1, 1, h, w)."""
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
        What was done, in numbers: the noise level, the share of pixels inpainted, the largest
        change of the others, the largest change of luminance, or the difference between the shrunk
        result and the input.
    hidden : array, (H, W), bool, optional
        What of the photo that was given was inpainted.
    """

    photo: Photo
    report: dict[str, Any]
    hidden: NDArray[np.bool_] | None = None


def restore(
    photo: Photo | Path | str, options: RestoreOptions, engine: Engine | None = None
) -> Restored:
    """Undo what is asked for.

    Parameters
    ----------
    photo : Photo, or path of a picture
    options : RestoreOptions
    engine : Engine, optional
        The networks; the bundled ones by default.

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
    """Undo what is asked for, and yield after each part; the last events are the answers.

    There is one answer, or as many as are asked for where a wide hole is filled by patches.
    """
    _check_hints(photo, options)
    first = options.seed or 0
    for seed in range(first, first + options.samples):
        for event in _answer(photo, options, engine, seed):
            if isinstance(event, Progress):
                done = (seed - first) * event.total + event.done
                yield Progress(event.what, done, options.samples * event.total)
                continue
            if options.samples > 1 and "seed" not in event.report:
                raise OptionError(
                    "there is one answer only: no hole is so wide that patches fill it; leave "
                    "--samples out, or give --engine patches or diffusion"
                )
            yield event


def _answer(
    photo: Photo, options: RestoreOptions, engine: Engine, seed: int
) -> Iterator[Progress | Restored]:
    """One answer."""
    # as it is: what is filled has no noise
    noise, jpeg = measured_noise(photo, options), quality(photo, options)
    stages = _stages(options, engine)
    total, done = sum(_windows(_size(photo, stage)) for stage in stages), 0
    made, job, filled = photo.opaque(), None, None
    said: dict[str, Any] = {}
    for stage in stages:
        job = _Job(made, stage, engine, noise, jpeg)
        out: NDArray[Any] = np.empty((*job.size, job.channels), photo.values.dtype)
        for window in windows(job.size, tile=TILE, margin=job.margin):
            part = window.cut(job.window(*window.around))[0].numpy()
            place = window.rows, window.columns
            out[place] = job.kept(made.stored(part), *place)
            done += 1
            yield Progress("restoring", done, total)
        made = made.with_values(out)
        said |= job.said(made)
        filled = job.hidden if stage.fills else filled
        holes = job.wide_holes()
        if holes is not None:
            made = yield from _textured(made, holes, seed)
            said |= {"engine": "patches", "seed": seed}
    if options.colorize:
        made = colorize(
            made,
            options.hints,
            options.enlarge or 1.0,
            engine.colors,
            saturation=options.saturation,
            like=read(options.like) if options.like else None,
        )
    made = _with_clear(made, photo)
    hidden = job.hidden if job else None
    told = report(photo, made, options, stages, engine.sha256, said, hidden)
    yield Restored(made, told, filled)


def _stages(options: RestoreOptions, engine: Engine) -> list[RestoreOptions]:
    """What is undone one after the other; all at once by a network that does all."""
    if engine.has_specialists and not options.clean:
        return options.stages()
    return [options] if options.structural else []


def _textured(made: Photo, holes: NDArray[np.bool_], seed: int) -> Generator[Progress, None, Photo]:
    """The photo with its wide holes filled by patches."""
    values = made.values.copy()

    def read(rows: slice, columns: slice) -> Tensor:
        return torch.from_numpy(made.frame(rows, columns))

    for event in complete(read, holes, seed):
        if not isinstance(event, Filled):
            yield Progress("filling", event, 1)
            continue
        place = event.rows, event.columns
        filled = made.stored(event.values.numpy())
        values[place] = np.where(holes[place][..., None], filled, values[place])
    return made.with_values(values)


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


class _Job:
    """One photo, what is known about it, and the networks."""

    def __init__(
        self, photo: Photo, options: RestoreOptions, engine: Engine, noise: Noise, jpeg: int
    ) -> None:
        self.photo, self.options, self.engine = photo, options, engine
        self.hidden = masks.find(photo, options, engine.damage)
        self.noise = noise if options.denoise is not None else Noise(0.0)
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
            self.noise.of(y),
            self.options.only,
            ensemble=self.options.ensemble,
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

    def wide_holes(self) -> NDArray[np.bool_] | None:
        """The holes that patches fill; None if there are none."""
        chosen = self.options.engine
        if self.hidden is None or not self.only_fills or chosen == "network":
            return None
        if not self.engine.has_specialists and chosen == "auto":
            return None  # a network of one's own knows best what it was trained for
        holes = wide_holes(self.hidden, 0 if chosen == "patches" else WIDE)
        return holes if holes.any() else None

    def said(self, made: Photo) -> dict[str, Any]:
        """What was measured on the way."""
        options = self.options
        out: dict[str, Any] = {}
        if options.denoise is not None:
            out["sigma"] = round(self.noise.level * 127.5, 2)
            out |= self.noise.said()
        if options.dejpeg is not None:
            out["quality"] = self.quality
        if self.hidden is not None:
            out["made_anew"] = round(float(self.hidden.mean()), 6)
        if self.only_fills and self.hidden is not None and not options.colorize:
            out["largest_change_elsewhere"] = largest_change(
                made.values, self.photo.values, ~self.hidden
            )
        if options.enlarge is not None:
            out["shrunk_difference"] = round(
                shrunk_difference(made, self.photo, options.enlarge), 3
            )
        return out


def answer(
    engine: Engine,
    y: Tensor,
    planes: Tensor,
    sigma: float | Tensor,
    only: Only,
    *,
    ensemble: bool = False,
) -> Tensor:
    """What an engine makes of a window (1, 3, h, w).

    With `ensemble`, the mean of what it makes of the window turned and mirrored in all eight ways.
    """
    if not ensemble:
        made = engine.repair(y, planes, sigma, only)
    elif isinstance(sigma, Tensor):
        made = self_ensemble(
            lambda seen, told_of, level: engine.repair(seen, told_of, level, only),
            VIEWS,
            y,
            planes,
            sigma,
        )
    else:
        made = self_ensemble(
            lambda seen, told_of: engine.repair(seen, told_of, sigma, only), VIEWS, y, planes
        )
    quality = 100 * float(planes[0, PLANES.index("quality"), 0, 0])
    return deblock_chroma(made, quality)
