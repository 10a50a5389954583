"""Read pictures, tables or documents as a data set, with labels if there are any.

An item that cannot be read is skipped and listed. If too few usable rows are left, an error is
raised.
"""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.data.arrays import (
    channels_last,
    classes,
    join_test_arrays,
    read_arrays,
    read_idx,
    to_float,
    to_unit,
)
from sfumato.data.columns import arrow_table, columns_of, label_name
from sfumato.data.dataset import Table, labels_of, usable, word
from sfumato.data.memory import png_of
from sfumato.data.samples import Sample, find, picture_column
from sfumato.data.tables import LABELS, held_out_rows, read_table, used_rows
from sfumato.data.text import document, document_files
from sfumato.data.walk import hidden
from sfumato.errors import DataError, OptionError, PictureError, unknown

ARRAYS = ("images", "pictures", "x", "data", "x_train", "train_images", "arr_0")
LISTED = 5  # unused arrays that a note names
PICTURE = Path | Image.Image  # a picture in a list
SIDE = 32  # side in pixels for large pictures and pictures of different sizes, if no size is given


def read(source: Path, *, size: int | None = None, label: str | None = None) -> Table:
    """Read a folder, ``.zip``, ``.npz``, ``.npy``, idx (``.gz``), ``.csv``, ``.tsv`` or
    ``.parquet``.

    Parameters
    ----------
    source : Path
    size : int, optional
        Side in pixels, 4 to 512, of the resized pictures; arrays are not resized. By default,
        pictures keep their size if all have the same size and at most 4,096 pixels (64x64);
        otherwise they are cropped to a square and resized to a side of 32.
    label : str, optional
        Column or array that holds the labels; by default one with a usual name, such as ``label``
        or ``target``. In a folder or ``.zip``, the name of a file's folder is its label.

    Raises
    ------
    DataError
        If the source cannot be read or has fewer than 3 usable rows; the message gives the reason.
    OptionError
        If `size` is out of range, or `label` names no column or array.
    """
    if size is not None and not 4 <= size <= 512:
        raise OptionError(f"size {size} is not within 4 to 512 pixels")
    if not source.exists():
        raise DataError(
            f"{source} does not exist; give a folder, .zip, .npz, .npy, idx.gz, .csv or .parquet"
        )
    name = source.name.lower()
    if source.is_dir():
        table = _folder(source, size)
    elif name.endswith((".npz", ".npy")):
        table = _numpy(source, label)
    elif name.endswith((".csv", ".tsv", ".parquet")):
        table = _table_file(source, size, label)
    elif name.endswith(".zip"):
        table = _zip(source, size)
    elif "idx" in name:
        table = _idx(source)
    else:
        raise DataError(
            f"{source} is not a known kind of file; give a folder, .zip, .npz, .npy, idx.gz, .csv "
            "or .parquet"
        )
    return usable(table, str(source))


def _folder(folder: Path, size: int | None) -> Table:
    idx = sorted(
        p
        for p in folder.iterdir()
        if not p.name.startswith(".") and "images" in p.name and "idx3" in p.name
    )
    if idx:
        return _idx(next((p for p in idx if "train" in p.name), idx[0]))
    if texts := document_files(folder):
        return _documents({path.relative_to(folder).as_posix(): path.read_bytes for path in texts})
    samples = find(folder)
    return _pictures(samples, [PurePosixPath(s.name).parent.name for s in samples], size)


def _zip(path: Path, size: int | None) -> Table:
    try:
        with zipfile.ZipFile(path) as archive:
            endings = {
                n: PurePosixPath(n).suffix.lower()
                for n in sorted(archive.namelist())
                if not hidden(n)
            }
            names = [n for n, ending in endings.items() if ending in image.SUFFIXES]
            texts = [n for n, ending in endings.items() if ending == ".txt"] if not names else []
            # into memory: nothing is unpacked, so a member's path cannot do harm
            held = {n: archive.read(n) for n in names or texts}
    except Exception as error:  # each compression method raises its own errors
        raise DataError(f"{path} cannot be read as a zip file: {error}") from None
    if texts:
        return _documents({n: lambda n=n: held[n] for n in texts})  # type: ignore[misc]
    samples = [Sample(n, (), lambda n=n: held[n]) for n in names]  # type: ignore[misc]
    table = _pictures(samples, [PurePosixPath(n).parent.name for n in names], size)
    others = [(n, ending) for n, ending in endings.items() if ending in image.UNSUPPORTED]
    lost = [f"{n}: {image.unsupported(ending)}" for n, ending in others]
    return replace(table, skipped=[*table.skipped, *lost])


def _documents(files: dict[str, Callable[[], bytes]]) -> Table:
    """Read text files, given by name; a file's folder is its label."""
    held, labels, skipped, notes = [], [], [], []
    for name, read_bytes in files.items():
        try:
            text, note = document(read_bytes())
        except (OSError, DataError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            skipped.append(f"{name}: {why}")
            continue
        held.append(text)
        labels.append(PurePosixPath(name).parent.name)
        notes += [f"{name}: {note}"] if note else []
    return Table("documents", texts=held, labels=labels_of(labels), skipped=skipped, notes=notes)


def _pictures(
    samples: list[Sample],
    labels: list[str],
    size: int | None,
    test: NDArray[np.bool_] | None = None,
) -> Table:
    """Decode all pictures to one size; keep one channel if every picture is gray."""
    kept: list[Image.Image] = []
    places, skipped, sizes = [], [], set()
    for k, sample in enumerate(samples):
        try:
            picture = image.read(sample.read())
            sizes.add(picture.size)
            # if any picture is large, all get the side SIDE, so a large one is resized now
            large = math.prod(picture.size) > 64 * 64
            kept.append(
                image.crop_to(
                    picture, (size, size) if size else (SIDE, SIDE) if large else picture.size
                )
            )
            places.append(k)
        except (PictureError, OSError) as error:
            skipped.append(f"{sample.name}: {error}")
    if not kept:
        return Table("pictures", skipped=skipped)
    same = len(sizes) == 1 and math.prod(next(iter(sizes))) <= 64 * 64
    target = (size, size) if size else next(iter(sizes)) if same else (SIDE, SIDE)
    pixels = np.stack([np.asarray(image.crop_to(p, target), dtype=np.float32) / 255 for p in kept])
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(
        pixels[..., 0], pixels[..., 2]
    ):
        pixels = pixels[..., :1]
    table = _stack(pixels, labels_of([labels[k] for k in places]), skipped)
    return table if test is None else replace(table, test=test[places])


def _stack(
    pixels: NDArray[Any], labels: NDArray[np.str_] | None, skipped: list[str] | None = None
) -> Table:
    """Build a table of pictures (N, H, W, C) in [0, 1]."""
    n, tall, wide, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32).reshape(n, -1)
    return Table(
        "pictures", rows, labels=labels, shape=(channels, tall, wide), skipped=skipped or []
    )


def _numpy(path: Path, label: str | None) -> Table:
    """Read an array and its labels from a ``.npy`` or ``.npz``.

    The array is the first with a name in `ARRAYS`, or else the largest array.
    """
    arrays, test = join_test_arrays(read_arrays(path))
    lower = {name.lower(): name for name in arrays}
    largest = max(arrays, key=lambda name: arrays[name].size, default=None)
    main = next((lower[n] for n in ARRAYS if n in lower), largest)
    if main is None or not 2 <= arrays[main].ndim <= 4:
        raise DataError(
            f"{path} holds no rows; an array of shape (N, d), (N, H, W) or (N, H, W, C) is needed, "
            f"found {sorted(arrays)}"
        )
    values = arrays[main]
    if label and label not in arrays:
        raise unknown("array", label, arrays)
    if label and arrays[label].shape[:1] != values.shape[:1]:
        raise DataError(
            f"{path} has {len(values)} rows in {main}, but {arrays[label].size} values in {label}"
        )
    known = label or next((lower[n] for n in LABELS if n in lower), None)
    fits = known is not None and arrays[known].shape[:1] == values.shape[:1]
    labels = labels_of(classes(arrays[known])) if known and fits else None
    notes = [] if fits or known is None else [f"{known} does not fit {main}: it is left out"]
    if unused := [name for name in arrays if name not in (main, known)]:
        more = f" and {len(unused) - LISTED} more" if len(unused) > LISTED else ""
        notes.append(f"the rows are in {main}; not used: {', '.join(unused[:LISTED])}{more}")
    held_out = test if test is not None and len(test) == len(values) else None
    return replace(_of_array(values, path), labels=labels, notes=notes, test=held_out)


def table_of(data: Any, label: str | None = None) -> Table:
    """Build a data set from data in memory.

    Parameters
    ----------
    data : array, DataFrame or list
        Rows of numbers (N, d); pictures (N, H, W) or (N, H, W, C); a list of texts; a list of
        Pillow pictures, or of the ``Path`` objects of picture files; or a DataFrame of pandas or
        polars, which is read like a table in a file.
    label : str, optional
        Column of a DataFrame that holds the labels; by default one with a usual name.

    Raises
    ------
    DataError
        If the data have another shape, hold no numbers, or have fewer than 3 usable rows.
    OptionError
        If `label` names no column.
    """
    if hasattr(data, "columns"):
        return usable(columns_of(arrow_table(data), label, "the DataFrame", []), "the DataFrame")
    if isinstance(data, list | tuple) and data and all(isinstance(p, PICTURE) for p in data):
        samples = [_sample(k, picture) for k, picture in enumerate(data)]
        return usable(_pictures(samples, [""] * len(samples), None), "the list")
    try:
        values = np.asarray(data)
    except (TypeError, ValueError) as error:
        raise DataError(f"the data cannot be converted to an array: {error}") from None
    if values.ndim == 1 and values.size and all(isinstance(text, str) for text in values):
        return usable(Table("documents", texts=[str(text) for text in values]), "the list")
    if values.dtype.kind in "OUS":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"the array cannot be converted to numbers: {error}") from None
    if not 2 <= values.ndim <= 4:
        raise DataError(
            f"an array of shape (N, d), (N, H, W) or (N, H, W, C) is needed, not {values.shape}"
        )
    given = Path("the array")  # its name in messages
    return usable(_of_array(values, given), str(given))


def _sample(number: int, picture: Path | Image.Image) -> Sample:
    """A picture of a list as a sample."""
    if isinstance(picture, Path):
        return Sample(str(picture), (), picture.read_bytes, path=picture)
    return Sample(f"picture {number}", (), functools.partial(png_of, picture))


def _of_array(values: NDArray[Any], path: Path) -> Table:
    if values.ndim == 2:
        return Table("numbers", to_float(values, path, np.float64))
    top = 255.0 if values.dtype == np.uint8 else None
    return _stack(to_unit(to_float(channels_last(values, path), path, np.float32), top), None)


def _idx(path: Path) -> Table:
    """Read an idx file of pictures, such as MNIST's, and the labels beside it.

    If the folder also has a test set, its rows are appended and marked.
    """
    parts = [
        path,
        *(
            [p]
            if (p := path.with_name(path.name.replace("train", "t10k"))).exists() and p != path
            else []
        ),
    ]
    pixels = [read_idx(p) for p in parts]
    if wrong := [p for p, values in zip(parts, pixels, strict=True) if values.ndim != 3]:
        raise DataError(
            f"{wrong[0]} holds no pictures, but perhaps labels; give the file of images"
        )
    beside = [
        p.with_name(p.name.replace("images", "labels").replace("idx3", "idx1")) for p in parts
    ]
    labels = (
        labels_of(np.concatenate([read_idx(p) for p in beside]))
        if all(b.exists() and b not in parts for b in beside)
        else None
    )
    test = np.repeat([False, True], [len(p) for p in pixels]) if len(parts) == 2 else None
    if labels is not None and len(labels) != sum(map(len, pixels)):
        raise DataError(
            f"{path} has {sum(map(len, pixels))} pictures, but the label files beside it have "
            f"{len(labels)} labels"
        )
    return replace(_stack(np.concatenate(pixels)[..., None] / np.float32(255), labels), test=test)


def _table_file(path: Path, size: int | None, label: str | None) -> Table:
    """Read a parquet file of pictures, texts or numbers, or a CSV file of texts or numbers."""
    table, notes = read_table(path)
    if not picture_column(table):
        return columns_of(table, label, str(path), notes)
    known, kept = label_name(table, label), used_rows(table)
    samples = [sample for sample, keep in zip(find(path), kept, strict=True) if keep]
    table = table.filter(kept.tolist())
    given = [word(v) for v in table[known].to_pylist()] if known else [""] * table.num_rows
    return replace(_pictures(samples, given, size, held_out_rows(table)), notes=notes)
