"""Train a restorer on pairs of a dirty and a clean picture, without a model of the corruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato import image
from sfumato.data.samples import cell
from sfumato.data.tables import read_table
from sfumato.errors import DataError, PictureError
from sfumato.train.restorer import RestorerJob
from sfumato.types import Condition, Corrupted, Corruption, Progress, Reporting


@dataclass(frozen=True)
class PairedCorruption:
    """A corruption that ignores its input and returns the given pictures.

    Attributes
    ----------
    y : Tensor, (B, C, H, W)
        The corrupted pictures.
    """

    y: Tensor

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Return the given result for `x`."""
        return Corrupted(self.y, torch.zeros(len(x), device=x.device))


class PairJob(RestorerJob):
    """The objective of :class:`RestorerJob` on pairs of a dirty and a clean picture.

    Parameters
    ----------
    config, photos, corruptions, crop, gray, turned, measure, often, teacher
        As in :class:`RestorerJob`, except that each photo is a pair (6, H, W), uint8: RGB of the
        clean picture, then of the dirty one. `corruptions` is empty, and `gray` is not used.
    """

    def drawn(self, rows: Tensor, random: Generator) -> tuple[Tensor, Corruption, Condition]:
        """Random clean crops, and the matching crops of the dirty pictures."""
        clean, dirty = self.batch(rows, random).chunk(2, dim=1)
        return clean, PairedCorruption(dirty), Condition()


def read_pairs(source: Path, smallest: int) -> Reporting[tuple[list[NDArray[np.uint8]], list[str]]]:
    """Return the pairs of a clean and a dirty picture, (6, H, W) each.

    This is a generator: it yields progress and returns the result.

    The second result has a sentence for each pair that was left out: it cannot be read, its
    pictures differ in size, or a side is below `smallest` pixels.

    Parameters
    ----------
    source : Path
        Folder with ``clean/`` and ``dirty/``, which hold files of the same names (suffixes may
        differ); or a parquet file with a column ``clean`` and a column ``dirty`` or ``noisy``. A
        cell holds the bytes of a picture file; a dirty cell may hold a list of picture files.
    """
    pairs, skipped = [], _single(source) if source.is_dir() else []
    files = list(_pair_files(source))
    for done, (name, clean, dirty) in enumerate(files):
        yield Progress("reading pairs", done, len(files))
        try:
            both = [
                image.read(part if isinstance(part, Path) else cell(part))
                for part in (clean, dirty)
            ]
        except PictureError as error:
            skipped.append(f"{name}: {error}")
            continue
        if both[0].size != both[1].size:
            skipped.append(
                f"{name}: the clean picture has {both[0].width}x{both[0].height} pixels, the dirty "
                f"one {both[1].width}x{both[1].height}"
            )
        elif min(both[0].size) < smallest:
            skipped.append(
                f"{name}: {both[0].width}x{both[0].height} is smaller than the crops of "
                f"{smallest}x{smallest}"
            )
        else:
            pairs.append(
                np.concatenate([np.asarray(picture).transpose(2, 0, 1) for picture in both])
            )
    if not pairs:
        raise DataError(
            f"{source} has no pair to train on{'; first: ' + skipped[0] if skipped else ''}"
        )
    return pairs, skipped


def paired(source: Path) -> bool:
    """Whether a training set holds pairs."""
    if source.is_dir():
        return (source / "clean").is_dir() and (source / "dirty").is_dir()
    return (
        source.suffix.lower() == ".parquet"
        and source.exists()
        and "clean" in read_table(source)[0].column_names
    )


def _single(source: Path) -> list[str]:
    """A sentence for each picture of a folder that has no partner."""
    stems = {
        kind: {
            path.stem: path.name
            for path in (source / kind).iterdir()
            if path.suffix.lower() in image.SUFFIXES
        }
        for kind in ("clean", "dirty")
    }
    return [
        f"{kind}/{name}: there is no picture of this name in {other}/"
        for kind, other in (("clean", "dirty"), ("dirty", "clean"))
        for stem, name in sorted(stems[kind].items())
        if stem not in stems[other]
    ]


def _pair_files(source: Path) -> Iterator[tuple[str, Any, Any]]:
    """Name, clean picture and dirty picture of each pair: paths, or cells of a table."""
    if source.is_dir():
        dirty = {
            p.stem: p for p in (source / "dirty").iterdir() if p.suffix.lower() in image.SUFFIXES
        }
        for path in sorted(
            p for p in (source / "clean").iterdir() if p.suffix.lower() in image.SUFFIXES
        ):
            if path.stem in dirty:
                yield path.name, path, dirty[path.stem]
        return
    table, _ = read_table(source)
    column = next((c for c in ("dirty", "noisy") if c in table.column_names), None)
    if column is None:
        raise DataError(f'{source} has a column "clean" but no column "dirty"')
    for k, (clean, several) in enumerate(
        zip(table["clean"].to_pylist(), table[column].to_pylist(), strict=True)
    ):
        for one in several if isinstance(several, list) else [several]:
            yield f"row {k}", clean, one
