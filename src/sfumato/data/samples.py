"""List pictures and captions of a folder, a parquet file or a WebDataset tar, without decoding."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import posixpath
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato import image
from sfumato.data.tables import HELD_OUT, TRAINING, read_table
from sfumato.data.text import BINARY, decode
from sfumato.data.walk import files, hidden, pictures
from sfumato.errors import DataError, PictureError
from sfumato.runtime import replace_surrogates

PICTURE_COLUMNS = ("image", "picture", "jpg", "png", "webp", "bytes")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "label")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TARS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Sample:
    """One picture, not yet decoded.

    Attributes
    ----------
    name : str
        Name of the picture in messages.
    captions : tuple of str
        Alternative captions; one is sampled each time. Empty if the picture has no caption.
    read : callable
        Returns the picture file's bytes.
    weight : float
        Sampling weight: a picture of weight 2 is sampled twice as often as one of weight 1.
    path : Path, optional
        File of the picture; None for a picture in a table or an archive.
    """

    name: str
    captions: tuple[str, ...]
    read: Callable[[], bytes]
    weight: float = 1.0
    path: Path | None = None

    @classmethod
    def of(cls, path: Path, folder: Path, captions: tuple[str, ...] = ()) -> Sample:
        """Build the sample of a file in a folder; escape bytes of the file's name that are not
        UTF-8.
        """
        name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
        return cls(name, captions, path.read_bytes, path=path)


@dataclass(frozen=True)
class Scan:
    """The samples of a source, and notes.

    A note is a sentence on a caption whose encoding was guessed or whose picture is missing.
    """

    samples: list[Sample]
    notes: list[str]


def find(source: Path) -> list[Sample]:
    """List the samples of a folder, ``.parquet`` file or ``.tar`` file.

    Captions of a folder come from ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` in
    the folder or a subfolder (columns file_name and text or caption, as Hugging Face's datasets
    read them). Without metadata, they come from a ``.txt`` beside each picture, or else from the
    name of its class folder. In a tar, files whose names agree up to the first dot belong together.

    Raises
    ------
    DataError
        If there is nothing to read.
    """
    return scan(source).samples


def scan(source: Path) -> Scan:
    """List samples as :func:`find` does, and return notes with them."""
    if not source.exists():
        raise DataError(
            f"{source} does not exist; give a folder of pictures, a .parquet or a .tar file"
        )
    if source.is_dir():
        found = _scan_folder(source)
    elif source.suffix.lower() == ".parquet":
        found = Scan(list(_parquet(source)), [])
    elif source.name.lower().endswith(TARS):
        found = _scan_tar(source)
    else:
        raise DataError(
            f"{source} is not supported; give a folder of pictures, a .parquet or a .tar file"
        )
    if not found.samples:
        raise DataError(f"{source} holds no pictures ({', '.join(sorted(image.SUFFIXES))})")
    return found


def _captions(value: Any) -> tuple[str, ...]:
    many = value if isinstance(value, list | tuple) else [value]
    return tuple(
        replace_surrogates(str(v)).strip() for v in many if v is not None and str(v).strip()
    )


def _caption_of(record: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a record, from the first of `CAPTION_COLUMNS` that is not empty."""
    found = (_captions(record.get(column)) for column in CAPTION_COLUMNS)
    return next(filter(None, found), ())


def _scan_folder(folder: Path) -> Scan:
    there, notes = files(folder), list[str]()
    described = {path.parent for path in there if path.name.lower() in METADATA}
    captions = _Captions(folder, [path for path in there if path.name.lower() in METADATA])
    samples = []
    for path in pictures(there):
        side = path.with_suffix(".txt")
        if described & set(path.parents):
            found = captions.take(path)
        elif side.is_file():
            text, note = decode(side.read_bytes())
            found = () if note == BINARY else _captions(text)
            notes += [f"{side.relative_to(folder)}: {note}"] if note else []
        else:
            classes = path.parent != folder and path.parent.name.lower() not in HELD_OUT | TRAINING
            found = _captions(path.parent.name.replace("_", " ")) if classes else ()
        sample = Sample.of(path, folder, found)
        if path.suffix.lower() in image.UNSUPPORTED:
            sample = replace(sample, read=functools.partial(_refuse, path.suffix.lower()))
        samples.append(sample)
    return Scan(samples, notes + captions.left())


def _refuse(suffix: str) -> bytes:
    """Raise the error for a picture file that cannot be read."""
    raise PictureError(image.unsupported(suffix))


class _Captions:
    """The captions of metadata files, by the name of their picture."""

    def __init__(self, folder: Path, tables: list[Path]) -> None:
        self.folder = folder
        self.rows: dict[str, tuple[str, ...]] = {}
        for path in tables:
            place = path.parent.relative_to(folder).as_posix()
            for record in _records(path):
                self.rows[_normal(posixpath.join(place, _file_name(record, path)))] = _caption_of(
                    record
                )
        self.folded = {name.casefold(): name for name in self.rows}
        self.waiting = dict.fromkeys(self.rows)

    def take(self, path: Path) -> tuple[str, ...]:
        """Return the captions of a picture, ignoring case if no name matches exactly."""
        name = _normal(path.relative_to(self.folder).as_posix())
        name = name if name in self.rows else self.folded.get(name.casefold(), name)
        self.waiting.pop(name, None)
        return self.rows.get(name, ())

    def left(self) -> list[str]:
        """List a sentence for each row whose picture was not found."""
        return [f"{name} is listed in the metadata, but does not exist" for name in self.waiting]


def _normal(name: str) -> str:
    """Normalize a relative path: composed letters (NFC), slashes, no inner ``.`` or ``..``."""
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _records(path: Path) -> list[dict[str, Any]]:
    """The rows of a metadata file."""
    records: list[dict[str, Any]]
    try:
        if path.suffix.lower() == ".parquet":
            records = read_table(path)[0].to_pylist()
        else:
            text, _ = decode(path.read_bytes())
            if path.suffix.lower() == ".csv":
                records = list(csv.DictReader(io.StringIO(text, newline="")))
            else:
                records = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a row is not a record")
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as metadata: {error}") from None
    return records


def _file_name(record: dict[str, Any], path: Path) -> str:
    name = record.get("file_name") or next(
        (v for k, v in record.items() if str(k).endswith("_file_name")), None
    )
    if not isinstance(name, str):
        raise DataError(
            f"{path}: its rows need the columns file_name and text; found "
            f"{', '.join(map(str, record))}"
        )
    return name


def picture_column(table: Any) -> str | None:
    """The column of a table that holds picture files, or None.

    Its type is binary or a struct, and its name is one of `PICTURE_COLUMNS`.
    """
    kinds = "binary", "large_binary", "struct"
    return next(
        (
            c
            for c in PICTURE_COLUMNS
            if c in table.column_names and str(table.schema.field(c).type).startswith(kinds)
        ),
        None,
    )


def _parquet(path: Path) -> Iterator[Sample]:
    table, _ = read_table(path)
    picture = picture_column(table)
    if picture is None:
        raise DataError(
            f"{path} has no picture column; one of {', '.join(PICTURE_COLUMNS)} is expected, found "
            f"{', '.join(table.column_names)}"
        )
    caption = next((c for c in CAPTION_COLUMNS if c in table.column_names), None)
    pictures = table[picture]
    texts = table[caption].to_pylist() if caption else [None] * len(pictures)
    weights = (
        table["weight"].to_pylist() if "weight" in table.column_names else [1.0] * len(pictures)
    )
    for k, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        read = functools.partial(_cell_of, pictures, k)
        yield Sample(f"row {k}", _captions(text), read, _weight(weight, path, k))


def _cell_of(column: Any, row: int) -> bytes:
    return cell(column[row].as_py())


def _weight(value: Any, path: Path, row: int) -> float:
    """The sampling weight of a row; 1 if the cell is empty."""
    try:
        weight = 1.0 if value is None else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise DataError(f"{path}: the weight {value!r} of row {row} is not a number of at least 0")
    return weight


def cell(value: Any) -> bytes:
    """The bytes of a picture file in a table cell: the cell itself, or its field "bytes"."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise PictureError("the cell holds no picture bytes")
    return data


def _scan_tar(path: Path) -> Scan:
    """The samples of a WebDataset.

    Files in one folder whose base names agree up to the first dot belong together.
    """
    groups: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                handle = (
                    tar.extractfile(member) if member.isfile() and not hidden(member.name) else None
                )
                # read into memory: nothing is unpacked, so a member's path cannot do harm
                if handle is not None:
                    place, slash, name = member.name.rpartition("/")
                    key, _, ending = name.partition(".")
                    groups.setdefault(place + slash + key, {})[ending] = handle.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a tar file: {error}") from None
    samples, notes = [], []
    for key, parts in groups.items():
        for ending, content in parts.items():
            inner, _, kind = ending.rpartition(".")
            if f".{kind.lower()}" in image.SUFFIXES:
                name = f"{key}.{inner}" if inner else key
                captions, note = _tar_captions(parts, inner)
                notes += [f"{name}: {note}"] if note else []
                samples.append(Sample(name, captions, lambda content=content: content))  # type: ignore[misc]
    return Scan(samples, notes)


def _tar_captions(parts: dict[str, bytes], inner: str) -> tuple[tuple[str, ...], str | None]:
    """Find the captions of a picture in its group, and a note if their encoding was guessed.

    A group holds the files whose names agree up to the first dot. The captions of ``a.b.png`` are
    in ``a.b.txt``, or else in ``a.txt``, or else in any other ``.txt`` of the group. Without a
    ``.txt``, ``.json`` files are searched in the same order.
    """
    lower = {ending.lower(): content for ending, content in parts.items()}
    for kind in ("txt", "json"):
        others = [ending for ending in lower if ending.endswith(f".{kind}")]
        ending = next((e for e in (f"{inner.lower()}.{kind}", kind, *others) if e in lower), None)
        if ending is None:
            continue
        text, note = decode(lower[ending])
        if kind == "txt":
            return _captions(text), note
        try:
            record = json.loads(text)
            return (_caption_of(record) if isinstance(record, dict) else ()), note
        except (ValueError, RecursionError):
            return (), None
    return (), None
