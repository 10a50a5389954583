"""Restore damaged photographs.

First holes are filled, then noise and JPEG artifacts are removed, then the picture is enlarged,
each by a specialized network (wide holes by patches); a custom network does all of it at once. The
inputs of a network are the picture, the noise level, the known pixels, whether to estimate color,
the factor of enlarging and the JPEG quality. Pixels that are not to be changed stay as they are in
the file. Networks process a picture window by window, so the memory that they need does not grow
with the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.photo import Photo, read, write
from sfumato.denoiser.restorer import TILE
from sfumato.errors import OptionError
from sfumato.progress import relayed
from sfumato.space.tile import windows
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import colorize, has_colors
from sfumato.tasks.restore.measure import measured_noise, quality
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.patches import Filled, complete
from sfumato.tasks.restore.report import report
from sfumato.tasks.restore.stage import Engine, Stage, noise_network, size_of
from sfumato.types import Progress, Reporting

T = TypeVar("T")
MOST_OF_IT = 0.8  # share of inpainted pixels from which the mask may be inverted
MUCH = 0.003  # share of inpainted pixels above which the user should look at the result
LOOKS, PATCHES = 5, 10  # cost of finding scratches (per window) and of patches, in network windows


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored photo.

    Attributes
    ----------
    photo : Photo
    report : dict
        Numbers about the restoration: the noise level, the share of inpainted pixels, the largest
        change of the other pixels, the largest change of luminance, or the difference between the
        shrunk result and the input.
    hidden : array, (H, W), bool, optional
        The pixels of the given photo that were inpainted.
    notes : tuple of str
        One sentence for each effect that the user may not expect.
    """

    photo: Photo
    report: dict[str, Any]
    hidden: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    def save(self, path: Path | str) -> list[str]:
        """Write the photo with its metadata; the suffix of the path selects the format.

        Returns a note on each thing that the format cannot keep.

        Raises
        ------
        PictureError
            For an unknown suffix, or if the file cannot be written.
        """
        return write(self.photo, Path(path))


def stream(photo: Photo, options: RestoreOptions, engine: Engine) -> Iterator[Progress | Restored]:
    """Restore a photo with restoration networks; yield progress and ``options.samples`` results.

    Raises
    ------
    OptionError
        In the same cases as :func:`sfumato.restore`. Also if more than one sample is requested and
        no hole is filled with patches, because then all seeds give the same result.
    """
    _check_hints(photo, options)
    first = options.seed or 0
    for seed in range(first, first + options.samples):
        for event in _restored(photo, options, engine, seed):
            if isinstance(event, Progress):
                done = (seed - first) * event.total + event.done
                yield Progress(event.what, done, options.samples * event.total)
                continue
            if options.samples > 1 and "seed" not in event.report:
                raise OptionError(_single_result(options))
            yield event


def _single_result(options: RestoreOptions) -> str:
    """The error message if several results are requested, but all would be equal."""
    if options.engine == "patches":
        return (
            "there is only one result, since the known part is too small to copy patches from; "
            "leave --samples out, or give --engine diffusion"
        )
    return (
        "there is only one result, since no hole is wide enough for patches; leave --samples out, "
        "or give --engine patches or diffusion"
    )


def _restored(
    photo: Photo, options: RestoreOptions, engine: Engine, seed: int
) -> Iterator[Progress | Restored]:
    """Restore a photo once, with one seed."""
    # measured in the given photo, since filled pixels have no noise
    network = noise_network(engine) if engine.has_specialists else None
    noise = measured_noise(photo, options, engine.noise_levels, network)
    jpeg = quality(photo, options)
    stages = _stages(options, engine)
    total, done = sum(sum(_work(photo, asked)) for asked in stages), 0
    made, hidden, filled = photo.opaque(), None, None
    said: dict[str, Any] = {}
    for asked in stages:
        looks, _, patches = _work(photo, asked)
        finding = masks.find(made, asked, engine.damage, alone=options.only_fills)
        hidden = yield from _within(total, done, looks, finding)
        done += looks
        stage = Stage(made, asked, engine, noise, jpeg, hidden)
        out: NDArray[Any] = np.empty((*stage.size, stage.channels), photo.values.dtype)
        for window in windows(stage.size, tile=TILE, margin=stage.margin):
            part = window.cut(stage.window(*window.around))[0].numpy()
            place = window.rows, window.columns
            out[place] = stage.merge_known(made.stored(part), *place)
            done += 1
            yield Progress("restoring", done, total)
        made = made.with_values(out)
        said |= stage.measurements(made)
        filled = hidden if asked.fills else filled
        if stage.wide_holes is not None:
            work = _fill_with_patches(made, stage.wide_holes, seed)
            made = yield from _within(total, done, patches, work)
            said |= {"engine": "patches", "seed": seed}
        done += patches
    if options.colorize:
        made = colorize(
            made,
            options.hints,
            options.enlarge or 1.0,
            engine.colors,
            saturation=options.saturation,
            like=read(options.like).opaque() if options.like else None,
        )
    made = with_clear(made, photo)
    record = report(photo, made, options, stages, engine.sha256, said, hidden)
    yield Restored(made, record, filled, tuple(_surprises(photo, options, filled)))


def _surprises(
    photo: Photo, options: RestoreOptions, filled: NDArray[np.bool_] | None
) -> Iterator[str]:
    """Sentences on effects that the user may not expect."""
    if options.colorize and has_colors(photo):
        yield "the photo has colors; they were replaced by estimated colors"
    if options.fill_scratches and filled is not None and filled.mean() > MUCH:
        yield (
            f"{filled.mean():.1%} of the photo was inpainted, perhaps also parts without damage; "
            "compare the result with the photo"
        )
    elif options.fill is not None and filled is not None and filled.mean() > MOST_OF_IT:
        share = f"{filled.mean():.0%} of the photo was inpainted"
        yield f"{share}: white pixels of the mask are replaced; perhaps the mask must be inverted"


def _stages(options: RestoreOptions, engine: Engine) -> list[RestoreOptions]:
    """The stages of a restoration, or a single one for a network that does everything."""
    if engine.has_specialists and not options.clean:
        return options.stages()
    return [options] if options.structural else []


def _fill_with_patches(made: Photo, holes: NDArray[np.bool_], seed: int) -> Reporting[Photo]:
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


def with_clear(made: Photo, photo: Photo) -> Photo:
    """Keep the file's own values in fully transparent pixels, if the size is the same."""
    if photo.alpha is None or made.size != photo.size:
        return made
    return made.with_values(np.where(photo.alpha[..., None] == 0, photo.values, made.values))


def _check_hints(photo: Photo, options: RestoreOptions) -> None:
    wide, tall = photo.size
    for x, y, _ in options.hints:
        if not (0 <= x < wide and 0 <= y < tall):
            raise OptionError(
                f"the hint at {x},{y} does not lie within the picture of {wide}x{tall} pixels"
            )


def _work(photo: Photo, options: RestoreOptions) -> tuple[int, int, int]:
    """Cost of a stage in network windows: finding scratches, restoring, and filling by patches."""
    (tall, wide), (rows, columns) = photo.values.shape[:2], size_of(photo, options)
    looks = LOOKS * -(-tall // TILE) * -(-wide // TILE) if options.fill_scratches else 0
    return looks, -(-rows // TILE) * -(-columns // TILE), PATCHES if options.fills else 0


def _within(total: int, done: int, work: int, part: Reporting[T]) -> Reporting[T]:
    """Run a part of the work; convert its progress to the progress of the whole work."""
    return relayed(
        part, lambda event: Progress(event.what, done + work * event.done / event.total, total)
    )
