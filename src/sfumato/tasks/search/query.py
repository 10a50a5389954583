"""Find the items of an index that are nearest to words, a picture or a text."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.condition.words import knows_no_word
from sfumato.data.memory import png_of
from sfumato.data.samples import Sample, find
from sfumato.errors import DataError, ModelError, OptionError, PictureError
from sfumato.tasks.search.database import named, nearest, open_table
from sfumato.tasks.search.items import Item
from sfumato.tasks.search.matcher import ImageTextSpace
from sfumato.tasks.search.space import (
    NO_CODE,
    Index,
    index_settings,
    load_space,
    rows_of,
)


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes
    ----------
    name : str
        Name of the file, or number of the row in the table.
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
    words: str | None = None,
    k: int = 12,
    where: str | None = None,
    *,
    like: Any = None,
    note: Callable[[str], None] | None = None,
) -> list[Hit]:
    """Find the `k` items nearest to words, or to an example: a picture file or a text file.

    In a search by words, pictures that have each word in the name or the label come first.

    Parameters
    ----------
    folder : Path
        Folder of the index.
    words : str, optional
        Text to search for.
    k : int, at least 1
        Number of results.
    where : str, optional
        SQL condition on the columns name, label and text: ``label = 'cat'``.
    like : path, Pillow picture or array, optional
        Example, in place of `words`: a picture or the file of a text.
    note : callable, optional
        Called with a sentence if the text encoder of the index seems to know no word of the query.

    Raises
    ------
    OptionError
        If neither or both of `words` and `like` are given, for a query that does not fit the index,
        and for a wrong filter.
    ModelError
        If the folder is no index.
    DataError
        If the example file cannot be read.
    """
    if (words is None) == (like is None):
        raise OptionError("give either words, or an example file with --like")
    if k < 1:
        raise OptionError(f"k is {k}; it must be 1 or more")
    if where is not None and re.search(r";|--", re.sub(r"'[^']*'", "", where)):
        raise OptionError(f'the filter "{where}" is no single condition; remove ; and --')
    folder = Path(folder)
    settings = index_settings(folder)
    space = load_space(folder / "space")
    code = _code(settings, space, words, like)
    encoder = space.model.text if isinstance(space, ImageTextSpace) else None
    if note and words and encoder and knows_no_word(encoder, words):
        note(f'the model seems to know no word of "{words}"; the items found are arbitrary')
    table = open_table(folder)
    exact = settings.recall is None
    try:
        rows = nearest(table, code, k, where, exact=exact)
        if settings.kind == "pictures" and words is not None:
            rows = list(
                {row["name"]: row for row in (*named(table, code, words, k, where), *rows)}.values()
            )[:k]
    except Exception as error:
        why = str(error).splitlines()[0][:300]
        if where is None:
            raise ModelError(
                f"{folder} cannot be read: {why}; index again into another --output"
            ) from None
        raise OptionError(
            f'the filter "{where}" cannot be used; write a condition on name, label or text, '
            "such as label = 'cat'"
        ) from None
    return [Hit(r["name"], round(1 - r["_distance"], 6), r["label"], r["text"]) for r in rows]


def pictures(folder: Path | str, hits: list[Hit], side: int = 128) -> Image.Image:
    """One sheet with the pictures of search results, nearest first."""
    settings = index_settings(Path(folder))
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
    settings = index_settings(Path(folder))
    if settings.kind != "pictures":
        return {}
    held = {s.name: s for s in find(Path(settings.source))}
    found = {}
    for sample in (held[h.name] for h in hits if h.name in held):
        with contextlib.suppress(PictureError, OSError):  # the file has changed
            found[sample.name] = image.crop_to(image.read(sample.read()), (side, side))
    return found


def _reader(words: str | None, like: Any) -> Callable[[], bytes]:
    """A function that returns the content of a query as if it were a file."""
    if words is not None:
        return words.encode
    if isinstance(like, bytes):
        return lambda: like
    if not isinstance(like, str | Path):
        return functools.partial(png_of, like)
    if not Path(like).is_file():
        raise OptionError(f"{like} does not exist or is not a file")
    return Path(like).read_bytes


def _code(settings: Index, model: Any, words: str | None, like: Any) -> NDArray[np.float32]:
    """The code of the query in the space of an index."""
    if words is not None and Path(words).suffix.lower() in image.SUFFIXES | {".txt"}:
        raise OptionError(f'"{words}" looks like a file name; give an example file with --like')
    if words is not None and not words.strip():
        raise OptionError("the words to search for are empty")
    if words is not None and settings.kind == "pictures":
        if isinstance(model, ImageTextSpace):
            return model.words(words)
        raise OptionError(
            "an index of pictures can be searched only by an example picture (--like), unless it "
            "is created with --space icons"
        )
    name = words if words is not None else str(like) if isinstance(like, str | Path) else "example"
    short = Path(name).name  # the server's paths are not shown
    sample = Sample(name, (), _reader(words, like))
    rows, good, skipped = rows_of([Item(name, "", "", sample)], settings)
    if not good:
        raise DataError(f"{short}: {skipped[name]}")
    code: NDArray[np.float32] = model.transform(rows)[0].astype(np.float32)
    if not code.any() and settings.kind == "pictures":
        raise OptionError(f"{short}: {NO_CODE[settings.kind]}")
    if not code.any():
        raise OptionError(
            f"no word in {short} occurs in the index"
            if words is None
            else f'no word of "{words[:60]}" occurs in the index'
        )
    return code
