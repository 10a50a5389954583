"""List the pictures or documents to index in a folder, or in a parquet, CSV or tar file.

Changes are detected by file size and modification time in a folder, and by content in other
sources.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfumato import image
from sfumato.data.dataset import word
from sfumato.data.samples import Sample, find, picture_column
from sfumato.data.tables import TEXTS, label_column, read_table, text_column
from sfumato.data.text import document_files
from sfumato.data.walk import files
from sfumato.errors import DataError, PictureError


@dataclass(frozen=True)
class Item:
    """An item to index: its name, stamp, label and sample.

    The stamp changes if the item changes.
    """

    name: str
    stamp: str
    label: str
    sample: Sample


def items_of(source: Path) -> tuple[Literal["pictures", "documents"], list[Item]]:
    """The kind and the items of a source; nothing is decoded."""
    if source.is_dir():
        if texts := document_files(source):
            return "documents", [_file(source, p, Sample.of(p, source)) for p in texts]
        return "pictures", [_file(source, s.path or source / s.name, s) for s in find(source)]
    labels = None
    if source.suffix.lower() in (".parquet", ".csv", ".tsv") and source.is_file():
        table, _ = read_table(source)
        labels = _labels(table)
        if documents := _documents(table, labels):
            return "documents", documents
        if picture_column(table) is None:
            raise DataError(
                f"{source} has no column of texts ({', '.join(TEXTS)}) or of pictures; found "
                f"{', '.join(table.column_names)}"
            )
    samples = find(source)
    return "pictures", [
        _held(s, label)
        for s, label in zip(samples, labels or [(*s.captions, "")[0] for s in samples], strict=True)
    ]


def ignored_texts(source: Path) -> int:
    """Return how many ``.txt`` files in a folder of pictures are not indexed.

    A text file with the same name as a picture is the caption of that picture, and does not count.
    """
    there = files(source) if source.is_dir() else []
    pictures = {p.with_suffix("") for p in there if p.suffix.lower() in image.SUFFIXES}
    texts = {p.with_suffix("") for p in there if p.suffix.lower() == ".txt"}
    return len(texts - pictures) if pictures else 0


def _file(source: Path, path: Path, sample: Sample) -> Item:
    # a broken link is reported when it is read
    state = path.stat() if path.exists() else None
    stamp = f"{state.st_mtime_ns}:{state.st_size}" if state else "missing"
    return Item(sample.name, stamp, path.parent.name if path.parent != source else "", sample)


def _held(sample: Sample, label: str) -> Item:
    """The item of a sample that shares its file with other samples.

    The stamp is a digest of content and label.
    """
    try:
        stamp = hashlib.blake2b(sample.read() + b"\0" + label.encode(), digest_size=12).hexdigest()
    except (PictureError, OSError) as error:
        stamp = str(error)
    return Item(sample.name, stamp, label, sample)


def _labels(table: Any) -> list[str] | None:
    """The labels of a table, as text; None if the table has no labels."""
    known = label_column(table)
    return [word(v) for v in table[known].to_pylist()] if known else None


def _documents(table: Any, labels: list[str] | None) -> list[Item]:
    column = text_column(table)
    if column is None or picture_column(table):
        return []
    out = []
    for k, (text, label) in enumerate(
        zip(table[column].to_pylist(), labels or [""] * table.num_rows, strict=True)
    ):
        raw = ("" if text is None else str(text)).encode()
        sample = Sample(f"row {k}", (), lambda raw=raw: raw)  # type: ignore[misc]
        out.append(_held(sample, label))
    return out
