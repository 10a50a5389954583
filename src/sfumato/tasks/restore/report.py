"""Report the effects of a restoration in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato import __version__
from sfumato.corruption.color import Grayscale
from sfumato.corruption.resample import Downscale
from sfumato.data.photo import Photo
from sfumato.tasks.restore.color import luminance
from sfumato.tasks.restore.measure import SAMPLE
from sfumato.tasks.restore.options import HOW, OF_DIFFUSION, RestoreOptions


def head(options: RestoreOptions, sha256: str | dict[str, str]) -> dict[str, Any]:
    """The first part of a report: the task, the digests of the weights, and the given options."""
    fields = type(options).model_fields
    others = {name for name in fields if getattr(options, name) == fields[name].default}
    asked = options.model_dump(mode="json", exclude=others | HOW)
    return {"task": "restore", "version": __version__, "model_sha256": sha256, **asked}


def generated_head(options: RestoreOptions, sha256: str, engine: str, seed: int) -> dict[str, Any]:
    """The first part of a report on a result of a diffusion model."""
    how = options.model_dump(mode="json", include={*OF_DIFFUSION, "samples"})
    return head(options, sha256) | {"engine": engine, "seed": seed} | how


def report(
    photo: Photo,
    made: Photo,
    options: RestoreOptions,
    stages: list[RestoreOptions],
    sha256: Callable[[str], str],
    said: dict[str, Any],
    hidden: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """The report of a restoration.

    The largest change of known pixels is reported only if filling holes is the only task. If the
    photo is enlarged and no noise is removed, the result is shrunk to the size of the photo, and
    its difference from the photo is reported.
    """
    parts = [
        *(stage.only or "photos" for stage in stages),
        *(["tints"] if options.colorize else []),
    ]
    weights = {part: sha256(part) for part in parts}
    out = head(options, weights if len(weights) > 1 else next(iter(weights.values())))
    if not options.only_fills:
        said.pop("largest_change_elsewhere", None)
    if options.denoise is not None:
        said.pop("shrunk_difference", None)
    if options.colorize and (options.only == "gaps" or not options.structural):
        said["largest_change_of_luminance"] = round(
            change_of_luminance(made, photo, hidden) * 255 / made.top, 3
        )
    return out | said


def largest_change(made: NDArray[Any], before: NDArray[Any], where: NDArray[np.bool_]) -> int:
    """Largest difference of values at the pixels `where`, row by row to save memory."""
    rows = (
        np.abs(a.astype(int) - b)[w].max(initial=0)
        for a, b, w in zip(made, before, where, strict=True)
    )
    return int(max(rows, default=0))


def change_of_luminance(made: Photo, before: Photo, hidden: NDArray[np.bool_] | None) -> float:
    """Largest change of luminance over the visible pixels that were not hidden."""
    known = np.ones(before.values.shape[:2], bool) if hidden is None else ~hidden
    known = known if before.alpha is None else known & (before.alpha > 0)
    rows = (
        np.abs(luminance(a) - luminance(b))[w].max(initial=0)
        for a, b, w in zip(made.values, before.values, known, strict=True)
    )
    return float(max(rows, default=0))


def shrunk_difference(made: Photo, before: Photo, factor: float) -> float:
    """Mean absolute difference (values 0 to 255) between the input and the downsampled result.

    It is measured in the upper left part of large pictures, and in luminance if the input or the
    result is gray. The colors of fully transparent pixels do not count.
    """
    before = before.opaque()
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
