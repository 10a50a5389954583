"""Restore many photos: choose output files, skip finished results, write comparisons and masks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfumato import image
from sfumato.data import photo as photos
from sfumato.data.photo import Photo
from sfumato.data.walk import files, pictures
from sfumato.errors import OptionError, PictureError, SfumatoError
from sfumato.metadata import SCHEMA
from sfumato.runtime import check_file, check_folder
from sfumato.tasks.restore.engines import engine
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.run import Restored
from sfumato.tasks.restore.stage import size_of
from sfumato.types import Progress


@dataclass(frozen=True)
class Job:
    """A picture and its output files.

    Attributes
    ----------
    source : Path
    targets : list of Path
        One per result.
    comparisons : list of Path
        Before and after side by side, one per result; empty if not requested.
    spread : Path, optional
        Picture that shows where several results differ.
    mask : Path, optional
        Picture of the inpainted pixels, in white.
    """

    source: Path
    targets: list[Path]
    comparisons: list[Path]
    spread: Path | None
    mask: Path | None

    @property
    def outputs(self) -> list[Path]:
        """All files to write."""
        others = [path for path in (self.spread, self.mask) if path is not None]
        return [*self.targets, *self.comparisons, *others]

    @property
    def lacks_comparison_alone(self) -> bool:
        """Whether the result exists, and only its comparison is missing."""
        there = self.mask is None or self.mask.exists()
        return len(self.targets) == 1 and self.targets[0].exists() and there


@dataclass(frozen=True)
class Batch:
    """All jobs, and those that are not finished (`waiting`)."""

    jobs: list[Job]
    waiting: list[Job]
    many: bool
    overwrite: bool


@dataclass(frozen=True)
class Written:
    """A picture that was written.

    Attributes
    ----------
    source, path : Path
    report : dict
        What was done, in numbers.
    notes : list of str
        Sentences about conversions of the file.
    """

    source: Path
    path: Path
    report: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class Failed:
    """A picture that was left out, and why."""

    source: Path
    reason: str


def plan(
    pictures: list[Path],
    output: Path,
    options: RestoreOptions,
    *,
    compare: bool = False,
    mask: bool = False,
    overwrite: bool = False,
) -> Batch:
    """Find the pictures and choose their output files, before any work.

    Parameters
    ----------
    pictures : list of Path
        Files, folders of them, and patterns with ``*`` or ``?``.
    output : Path
        A folder; or a file, if there is one picture.
    options : RestoreOptions
    compare : bool
        Also write before and after side by side.
    mask : bool
        Also write the mask of inpainted pixels, which can be edited and given as ``fill``.
    overwrite : bool
        Replace existing results; otherwise they count as finished.

    Raises
    ------
    OptionError, PictureError
        For missing pictures, and for output paths that cannot be written.
    """
    if mask and not options.fills:
        raise OptionError(
            "--save-mask writes the mask of inpainted pixels, so it needs a --fill option"
        )
    sources = _sources(pictures, output)
    many = len(sources) > 1 or pictures[0].is_dir()
    check_folder(output.parent if output.suffix.lower() in photos.SUFFIXES else output)
    jobs = _jobs(sources, output, options.samples, compare=compare, mask=mask, many=many)
    waiting = [job for job in jobs if overwrite or not all(path.exists() for path in job.outputs)]
    for path in (path for job in waiting or jobs for path in job.outputs if path.exists()):
        # a resumed run of many pictures replaces the outputs of unfinished jobs
        check_file(path, overwrite=overwrite or many)
    for given in (options.fill, options.like):
        if given is not None:
            image.read(given)  # refuse an unreadable file now: all pictures need it
    return Batch(jobs, waiting, many, overwrite)


def run(batch: Batch, options: RestoreOptions) -> Iterator[Progress | Written | Failed]:
    """Restore all pictures of a batch.

    If there are several pictures, a picture that cannot be restored is reported and skipped.
    """
    restore = engine(options)
    for index, job in enumerate(batch.waiting):
        yield Progress(job.source.name, index, len(batch.waiting))
        try:
            if job.lacks_comparison_alone and not batch.overwrite:
                yield _compared(job)
                continue
            before, results = photos.read(job.source), list[Restored]()
            tall, wide = size_of(before, options)
            for target in job.targets:
                photos.checked_format(target, (wide, tall))
            for event in restore(before):
                if isinstance(event, Restored):
                    results.append(event)
                    continue
                done = index + event.done / event.total
                yield Progress(job.source.name, done, len(batch.waiting))
            yield from _write(job, before, results)
        except SfumatoError as error:
            if not batch.many:
                raise
            yield Failed(job.source, str(error))


def _write(job: Job, before: Photo, results: list[Restored]) -> Iterator[Written]:
    """Write the results of a picture."""
    for k, (made, path) in enumerate(zip(results, job.targets, strict=True)):
        report, notes = dict(made.report), [*before.notes, *made.notes]
        if (
            photos.SUFFIXES[path.suffix.lower()] == "JPEG"
            and report.pop("largest_change_elsewhere", None) is not None
        ):
            notes.append(image.JPEG_TOUCHES)
        notes += photos.write(made.photo, path, json.dumps({"schema": SCHEMA, **report}))
        if job.comparisons:
            photos.write(side_by_side(before, made.photo), job.comparisons[k])
        yield Written(job.source, path, report, notes)
    if job.mask is not None and results[0].hidden is not None:
        hidden = results[0].hidden[..., None].astype(np.uint8) * np.uint8(255)
        photos.write(Photo(hidden), job.mask)
    if job.spread is not None:
        photos.write(spread([made.photo for made in results]), job.spread)


def _compared(job: Job) -> Written:
    """Write the comparison of a picture that was restored before."""
    before, after = photos.read(job.source), photos.read(job.targets[0])
    photos.write(side_by_side(before, after), job.comparisons[0])
    return Written(job.source, job.targets[0], {}, [])


def side_by_side(before: Photo, after: Photo) -> Photo:
    """Return both photos side by side on white, at the size of the second photo and in 8 bits.

    The color profile is kept if both have the same profile.
    """
    sides = []
    for photo in (before, after):
        values = (
            photo.values
            if photo.top == 255
            else (photo.values / np.float32(257)).round().astype(np.uint8)
        )
        picture = Image.fromarray(values if values.shape[2] == 3 else values[..., 0]).convert("RGB")
        if photo.alpha is not None:
            picture.putalpha(Image.fromarray(photo.alpha))
        shown = image.flattened(picture).resize(after.size, Image.Resampling.NEAREST)
        sides.append(np.asarray(shown))
    gap = np.full((sides[0].shape[0], 4, 3), 255, np.uint8)
    shared = before.profile if before.profile == after.profile else None
    if before.values.shape[2] == 1:
        shared = None  # the profile of a gray picture does not fit RGB values
    return Photo(np.concatenate([sides[0], gap, sides[1]], axis=1), profile=shared)


def spread(results: list[Photo]) -> Photo:
    """Picture that shows where several results differ.

    It shows their standard deviation, scaled so that the largest value is white.
    """
    values = np.stack([result.values.astype(np.float32) for result in results])
    deviation = values.std(axis=0).mean(axis=2, keepdims=True)
    return Photo((deviation * (255 / max(1e-6, float(deviation.max())))).round().astype(np.uint8))


def _jobs(
    sources: dict[Path, Path], output: Path, samples: int, *, compare: bool, mask: bool, many: bool
) -> list[Job]:
    """A job for each picture; no two pictures share an output file."""
    stems = Counter(name.with_suffix("") for name in sources.values())
    jobs, owner = [], dict[Path, Path]()
    for source, name in sources.items():
        alone = stems[name.with_suffix("")] == 1
        target = _target(source, name, output, many=many, alone=alone)
        targets = (
            [target]
            if samples == 1
            else [_beside(target, str(k), target.suffix) for k in range(1, samples + 1)]
        )
        # whether the target's name alone is unique
        told_apart = alone or target.suffix != source.suffix
        kind = "" if told_apart else f"{source.suffix[1:]}-"
        comparisons = [_beside(path, f"{kind}compare") for path in targets] if compare else []
        spread = _beside(target, f"{kind}spread") if samples > 1 else None
        hidden = _beside(target, f"{kind}mask") if mask else None
        job = Job(source, targets, comparisons, spread, hidden)
        for path in job.outputs:
            if owner.setdefault(path, source) != source:
                both = f"{owner[path]} and {source}"
                raise OptionError(
                    f"{both} would both be written to {path}; restore them into two folders"
                )
            if path.exists() and path.samefile(source):
                raise OptionError(
                    f"{source} would be replaced by its own result; give another --output"
                )
        jobs.append(job)
    return jobs


def _target(source: Path, name: Path, output: Path, *, many: bool, alone: bool) -> Path:
    """The output file of a picture.

    If `alone`, no other picture has the same name with another suffix.
    """
    if output.suffix.lower() in photos.SUFFIXES:
        if many:
            raise OptionError(
                f"{output} is one file, but several pictures are given; give a folder"
            )
        return output
    if output.suffix.lower() in image.ENDINGS:
        raise OptionError(
            f"{output}: the name of an output picture must end in one of "
            f"{', '.join(sorted(photos.SUFFIXES))}"
        )
    if source.suffix.lower() in photos.SUFFIXES:
        return output / name
    stem = name.stem if alone else f"{name.stem}-{name.suffix[1:]}"
    return output / name.with_name(f"{stem}.png")


def _beside(path: Path, what: str, suffix: str = ".png") -> Path:
    """A path next to `path`, for another result, a comparison, a spread or a mask."""
    return path.with_name(f"{path.stem}-{what}{suffix}")


def _sources(pictures: list[Path], output: Path) -> dict[Path, Path]:
    """All pictures to restore, each with its name below the output folder.

    Folders are searched, and patterns are expanded.
    """
    out: dict[Path, Path] = {}
    for path in pictures:
        if path.is_dir():
            out |= _inside(path, output)
        elif path.exists():
            out[path] = Path(path.name)
        elif has_magic(str(path)) and (found := sorted(glob(str(path), recursive=True))):  # noqa: PTH207 (absolute ones)
            out |= {Path(p): Path(Path(p).name) for p in found}
        else:
            raise PictureError(f"{path} does not exist")
    if not out:
        raise PictureError(f"{pictures[0]} holds no pictures")
    return out


def _inside(folder: Path, output: Path) -> dict[Path, Path]:
    """The pictures of a folder, without results of earlier runs.

    These results lie in an output folder inside the folder.
    """
    made, here = Path(os.path.realpath(output)), Path(os.path.realpath(folder))
    found = pictures(files(folder))
    if made != here:
        found = [path for path in found if not Path(os.path.realpath(path)).is_relative_to(made)]
    return {path: path.relative_to(folder) for path in found}
