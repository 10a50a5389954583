"""Read pictures, tables or documents as a data set, with labels if there are any.

An item that cannot be read is skipped and listed. If too few usable rows are left, an error is
raised.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.data.arrays import (
    channels_last,
    classes,
    read_arrays,
    read_idx,
    to_float,
    to_unit,
)
from sfumato.data.samples import Sample, find, picture_column
from sfumato.data.tables import (
    LABELS,
    TEXTS,
    held_out_rows,
    label_column,
    number_columns,
    read_table,
    text_column,
    used_rows,
)
from sfumato.data.text import document, document_files
from sfumato.data.walk import hidden
from sfumato.errors import DataError, OptionError, PictureError, unknown

Kind = Literal["pictures", "numbers", "documents"]
ARRAYS = ("images", "pictures", "x", "data", "x_train", "arr_0")
SIDE = 32  # side in pixels for large pictures and pictures of different sizes, if no size is given


@dataclass(frozen=True, eq=False)
class Table:
    """A data set.

    Attributes
    ----------
    kind : {"pictures", "numbers", "documents"}
    rows : array, (N, d), float32
        Values of pictures (0 to 1) or numbers; empty for documents.
    texts : list of str
        Documents.
    labels : array of str, (N,), or None
        Label of each row, "" for a row without one; None if there are fewer than two labels.
    shape : (C, H, W), optional
        Shape of a picture.
    test : array of bool, (N,), or None
        Whether a row belongs to the test or validation split of the data set.
    skipped : list of str
        One sentence for each item that was left out.
    notes : list of str
        One sentence for each guessed encoding; one if an unnamed column that counts the rows was
        left out; one if the array of labels does not fit the rows.
    """

    kind: Kind
    rows: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    texts: list[str] = field(default_factory=list)
    labels: NDArray[np.str_] | None = None
    shape: tuple[int, int, int] | None = None
    test: NDArray[np.bool_] | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts) if self.kind == "documents" else len(self.rows)

    def take(self, chosen: NDArray[Any]) -> Table:
        """Select rows by index or by a boolean mask."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return replace(
            self,
            rows=self.rows[places] if len(self.rows) else self.rows,
            texts=[self.texts[k] for k in places] if self.texts else [],
            labels=None if self.labels is None else self.labels[places],
            test=None if self.test is None else self.test[places],
        )


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
        table = _columns(source, size, label)
    elif name.endswith(".zip"):
        table = _zip(source, size)
    elif "idx" in name:
        table = _idx(source)
    else:
        raise DataError(
            f"{source} is not a known kind of file; give a folder, .zip, .npz, .npy, idx.gz, .csv "
            "or .parquet"
        )
    return _usable(table, source)


def _usable(table: Table, source: Path) -> Table:
    """Drop rows with NaN, infinity or empty text, and list them as skipped."""
    documents = table.kind == "documents"
    good = np.array(
        [bool(t.strip()) for t in table.texts]
        if documents
        else np.isfinite(table.rows).all(axis=1),
        dtype=np.bool_,
    )
    reason = "it is empty" if documents else "it holds NaN or infinity"
    skipped = table.skipped + [f"row {k}: {reason}" for k in np.flatnonzero(~good)]
    if good.sum() < 3:
        first = f"; the first problem is {skipped[0]}" if skipped else ""
        raise DataError(f"{source} has {int(good.sum())} usable rows; at least 3 are needed{first}")
    return replace(table if good.all() else table.take(good), skipped=skipped)


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
    return _pictures(samples, [PurePosixPath(n).parent.name for n in names], size)


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
    return Table("documents", texts=held, labels=_labels(labels), skipped=skipped, notes=notes)


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
    table = _stack(pixels, _labels([labels[k] for k in places]), skipped)
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


def _labels(values: Iterable[Any]) -> NDArray[np.str_] | None:
    """Return labels as text, or None if fewer than two labels differ."""
    found = np.array([word(v) for v in values], dtype=np.str_)
    return found if len(set(found.tolist()) - {""}) > 1 else None


def word(value: Any) -> str:
    """Return a label as text; "" if the value is missing."""
    if isinstance(value, list | tuple | np.ndarray):
        value = value[0] if len(value) else ""
    return "" if value is None or value != value else str(value)


def _numpy(path: Path, label: str | None) -> Table:
    """Read the array with a usual name (else the largest) and labels from a ``.npy`` or
    ``.npz``.
    """
    arrays = read_arrays(path)
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
    labels = _labels(classes(arrays[known])) if known and fits else None
    notes = [] if fits or known is None else [f"{known} does not fit {main}: it is left out"]
    return replace(_of_array(values, path), labels=labels, notes=notes)


def table_of(values: NDArray[Any]) -> Table:
    """Build a table of an array: rows (N, d), or pictures (N, H, W[, C]).

    Raises
    ------
    DataError
        If the array has another shape, holds no numbers, or has fewer than 3 usable rows.
    """
    given = Path("the array")  # its name in messages
    if values.dtype.kind in "OUS":
        try:
            values = values.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"the array cannot be converted to numbers: {error}") from None
    if not 2 <= values.ndim <= 4:
        raise DataError(
            f"an array of shape (N, d), (N, H, W) or (N, H, W, C) is needed, not {values.shape}"
        )
    return _usable(_of_array(values, given), given)


def _of_array(values: NDArray[Any], path: Path) -> Table:
    if values.ndim == 2:
        return Table("numbers", to_float(values, path))
    top = 255.0 if values.dtype == np.uint8 else None
    return _stack(to_unit(to_float(channels_last(values, path), path), top), None)


def _idx(path: Path) -> Table:
    """Read idx files, such as MNIST's; mark the rows of a test set in the same folder."""
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
        p.with_name(p.name.replace("images-idx3", "labels-idx1").replace("images", "labels"))
        for p in parts
    ]
    labels = (
        _labels(np.concatenate([read_idx(p) for p in beside]))
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


def _columns(path: Path, size: int | None, label: str | None) -> Table:
    """Read a parquet file of pictures, texts or numbers, or a CSV file of texts or numbers."""
    table, notes = read_table(path)
    names = table.column_names
    if label and label not in names:
        raise unknown("column", label, names)
    known = label or label_column(table)
    kept = used_rows(table)
    table = table.filter(kept.tolist())
    given = table[known].to_pylist() if known else [""] * table.num_rows
    test = held_out_rows(table)
    if picture_column(table):
        samples = [sample for sample, keep in zip(find(path), kept, strict=True) if keep]
        return replace(_pictures(samples, [word(v) for v in given], size, test), notes=notes)
    numeric = [name for name in number_columns(table) if name != known]
    text = text_column(table)
    if text is not None and text not in numeric:
        if numeric:
            notes.append(
                f"{', '.join(numeric)}: not used, because the column {text} makes this a table of "
                "documents"
            )
        return Table(
            "documents",
            texts=["" if t is None else str(t) for t in table[text].to_pylist()],
            labels=_labels(given),
            test=test,
            notes=notes,
        )
    if not numeric:
        raise DataError(
            f"{path} has no column of numbers, text ({', '.join(TEXTS)}) or pictures; found "
            f"{', '.join(names)}"
        )
    rows = np.stack([table[n].cast("float32", safe=False).to_numpy() for n in numeric], axis=1)
    used = {*numeric, known, "split"}
    left_out = [f"column {n}: no numbers" for n in names if n not in used]
    return Table("numbers", rows, labels=_labels(given), test=test, skipped=left_out, notes=notes)
