"""Find the items of an index that are nearest to words, a picture or a text."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.data.samples import Sample, find
from sfumato.errors import DataError, ModelError, OptionError, PictureError
from sfumato.tasks.search.database import named, nearest, open_table
from sfumato.tasks.search.items import Item
from sfumato.tasks.search.matcher import ImageTextSpace
from sfumato.tasks.search.space import (
    Index,
    load_space,
    rows_of,
    settings_of,
)


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes
    ----------
    name : str
        Name of the file, or row of the table.
    similarity : float
        Cosine of the angle between the codes, -1 to 1.
    label, text : str
        Label of the item, and the beginning of a document's text; empty if the item has none.
    """

    name: str
    similarity: float
    label: str
    text: str


def search(
    folder: Path | str,
    query: str,
    k: int = 12,
    where: str | None = None,
    *,
    file: bool | None = None,
) -> list[Hit]:
    """Find the `k` items nearest to words, a picture file or a text file.

    In a search by words, pictures that have each word in the name or the label come first.

    Parameters
    ----------
    folder : Path
        Folder of the index.
    query : str
        Words, or the path of a file.
    where : str, optional
        SQL over name, label and text: ``label = 'cat'``.
    file : bool, optional
        Whether the query is a path. If None, the query is a path if a file with this name exists.
        Pass False for untrusted queries.
    """
    if k < 1:
        raise OptionError(f"k is {k}; it must be 1 or more")
    folder = Path(folder)
    settings = settings_of(folder)
    is_file = _is_file(query) if file is None else file
    code, table, exact = (
        _query(settings, load_space(folder / "space"), query, is_file),
        open_table(folder),
        settings.recall is None,
    )
    try:
        rows = nearest(table, code, k, where, exact=exact)
        if settings.kind == "pictures" and not is_file:
            rows = list(
                {row["name"]: row for row in (*named(table, code, query, k, where), *rows)}.values()
            )[:k]
    except Exception as error:
        why = str(error).splitlines()[0][:300]
        if where is None:
            raise ModelError(
                f"{folder} cannot be read: {why}; index again into another --output"
            ) from None
        raise OptionError(
            f'the filter "{where}" cannot be used ({str(error).splitlines()[0]}); write SQL '
            "such as label = 'cat'"
        ) from None
    return [Hit(r["name"], round(1 - r["_distance"], 6), r["label"], r["text"]) for r in rows]


def pictures(folder: Path | str, hits: list[Hit], side: int = 128) -> Image.Image:
    """One sheet with the pictures of search results, nearest first."""
    settings = settings_of(Path(folder))
    if settings.kind != "pictures":
        raise OptionError("this index holds documents: there are no pictures to show")
    if not hits:
        raise DataError("nothing was found: there are no pictures to show")
    found = found_pictures(folder, hits, side)
    if not found:
        raise DataError(f"none of the found pictures exists in {settings.source} any more")
    return image.sheet(list(found.values()))


def found_pictures(folder: Path | str, hits: list[Hit], side: int = 128) -> dict[str, Image.Image]:
    """The pictures of search results by name, nearest first.

    Pictures that no longer exist are left out; for documents, the result is empty.
    """
    settings = settings_of(Path(folder))
    if settings.kind != "pictures":
        return {}
    held = {s.name: s for s in find(Path(settings.source))}
    found = {}
    for sample in (held[h.name] for h in hits if h.name in held):
        with contextlib.suppress(PictureError, OSError):  # the file has changed
            found[sample.name] = image.crop_to(image.read(sample.read()), (side, side))
    return found


def _is_file(query: str) -> bool:
    return os.path.isfile(query)  # noqa: PTH113 (a text too long for a name is no error here)


def _query(settings: Index, model: Any, query: str, is_file: bool) -> NDArray[np.float32]:
    path = Path(query)
    if not is_file and path.suffix.lower() in image.SUFFIXES | {".txt"}:
        raise OptionError(f"{query} does not exist")
    if settings.kind == "pictures":
        if not is_file and isinstance(model, ImageTextSpace):
            return model.words(query)
        if not is_file:
            raise OptionError(
                f'"{query}" is not a picture file; an index of pictures can be searched only by an '
                "example picture, unless it is created with --space icons"
            )
        sample = Sample(query, (), path.read_bytes)
    else:
        sample = Sample(query, (), path.read_bytes if is_file else query.encode)
    rows, good, skipped = rows_of([Item(query, "", "", sample)], settings)
    if not good:
        raise PictureError(skipped[query])
    code: NDArray[np.float32] = model.transform(rows)[0].astype(np.float32)
    if not code.any():
        raise OptionError(
            f"no word in {query} occurs in the index"
            if is_file
            else f'no word of "{query[:60]}" occurs in the index'
        )
    return code
