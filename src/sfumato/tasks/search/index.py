"""Index pictures or documents: store their codes in an embedded database for search.

An index is a folder: ``index.json`` (its settings), ``space/`` (the fitted estimator) and a LanceDB
table. Items are keyed by name and written in atomic batches, so running the same command again
finishes an interrupted index. Only new and changed items are encoded, unless new documents need a
new vocabulary; missing items are removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.terms import Terms
from sfumato.errors import DataError, OptionError, PictureError
from sfumato.runtime import check_folder
from sfumato.tasks.search.database import nearest, open_table, quoted, writing
from sfumato.tasks.search.items import Item, items_of
from sfumato.tasks.search.space import (
    KINDS,
    Index,
    encode,
    encoding_notes,
    fit_space,
    index_settings,
    keep,
    load_space,
    parse_space,
    text_of,
)

BATCH = 512  # items that are encoded and written at once
APPROXIMATE = 500_000  # number of items from which an approximate index is built
STRANGE = 0.2  # a document with a smaller share of known words needs a new vocabulary


@dataclass(frozen=True)
class Indexed:
    """Progress of indexing.

    Attributes
    ----------
    done, total : int
        Items encoded so far, and number of all new and changed items.
    removed : int
        Items removed from the index. Only the last event sets this field and the next three.
    skipped : tuple of str
        A sentence for each item that cannot be encoded.
    notes : tuple of str
        A sentence for each new document whose encoding was guessed.
    recall : float, optional
        Recall of the approximate index; None if search is exact.
    """

    done: int
    total: int
    removed: int = 0
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recall: float | None = None


def index(
    source: Path | str, folder: Path | str, space: str | None = None, *, side: int | None = None
) -> Indexed:
    """Index pictures or documents, or bring an index up to date.

    Parameters
    ----------
    source : Path
        Folder of pictures or of ``.txt`` files, or a ``.parquet``, ``.csv`` or ``.tar`` file.
    folder : Path
        Folder of the index.
    space : str, optional
        ``pca:30``, ``autoencoder:30`` or ``lsa:128``, fitted to the data (the number is the code
        length); the folder of a saved estimator; or, to find pictures by words, a text-to-image
        model with a matcher (as in CLIP), such as ``icons``. By default the space of the existing
        index; for a new one, pca:30 for pictures and lsa:128 for documents.
    side : int, optional
        Side in pixels of the resized pictures, 4 to 512; 32 by default.

    Returns
    -------
    Indexed
        The last progress event.

    Raises
    ------
    DataError
        If the source holds nothing to index.
    OptionError
        For a wrong space or side, or a folder that holds something else.
    ModelError
        If a saved space or a model cannot be loaded.
    """
    *_, last = indexing(source, folder, space, side=side)
    return last


def indexing(
    source: Path | str, folder: Path | str, space: str | None = None, *, side: int | None = None
) -> Iterator[Indexed]:
    """As :func:`index`, but yield progress; if stopped, the index keeps the encoded items."""
    source, folder = Path(source), Path(folder)
    if space is not None:
        parse_space(space)
    if side is not None and not 4 <= side <= 512:
        raise OptionError(f"side {side} is not within 4 to 512 pixels")
    check_folder(folder)
    new = not folder.exists()
    kind, items = items_of(source)
    if (folder / "index.json").exists():
        settings = index_settings(folder)
        _check_same(settings, folder, source, kind, space, side)
    else:
        with writing(folder, new=new):
            settings = fit_space(kind, items, source, folder, space, side or 32)
    with writing(folder, new=new):
        table = open_table(folder, codes=load_space(folder / "space").n_components_)
        known = table.search().select(["name", "stamp"]).limit(None).to_list()
        have = {row["name"]: row["stamp"] for row in known}
        fresh = [item for item in items if have.get(item.name) != item.stamp]
        of_words = kind == "documents" and settings.space.partition(":")[0] in KINDS
        if of_words and have and _are_strange(fresh, settings):
            # before the new fit: an interruption must not leave codes of the old space
            table.delete("true")
            # fit a vocabulary to the current documents
            settings = fit_space(kind, items, source, folder, settings.space, settings.side)
            have, fresh = {}, items
    yield Indexed(0, len(fresh))
    yield from _written(folder, table, settings, items, fresh, have, new=new)


def _check_same(
    settings: Index, folder: Path, source: Path, kind: str, space: str | None, side: int | None
) -> None:
    """Refuse to update an index with other data or other settings."""
    if (settings.kind, settings.space) != (kind, space or settings.space):
        raise OptionError(
            f"{folder} is an index of {settings.kind} in space {settings.space}; give another "
            "--output"
        )
    if settings.source != str(source.resolve()):
        raise OptionError(f"{folder} is the index of {settings.source}; give another --output")
    if kind == "pictures" and side not in (None, settings.side):
        raise OptionError(
            f"{folder} holds pictures resized to {settings.side} pixels; give another --output "
            f"for {side}"
        )


def _written(
    folder: Path,
    table: Any,
    settings: Index,
    items: list[Item],
    fresh: list[Item],
    have: dict[str, str],
    *,
    new: bool,
) -> Iterator[Indexed]:
    """Encode and write the new and changed items, and remove missing items from the index."""
    model, skipped, wanted = load_space(folder / "space"), dict[str, str](), {i.name for i in items}
    for start in range(0, len(fresh), BATCH):
        batch = fresh[start : start + BATCH]
        with writing(folder, new=new):
            rows = encode(batch, settings, model, skipped)
            if rows:
                table.merge_insert(
                    "name"
                ).when_matched_update_all().when_not_matched_insert_all().execute(rows)
        yield Indexed(start + len(batch), len(fresh))
    gone = [name for name in have if name not in wanted or name in skipped]
    with writing(folder, new=new):
        for start in range(0, len(gone), BATCH):
            table.delete(
                "name IN (" + ", ".join(quoted(n) for n in gone[start : start + BATCH]) + ")"
            )
        if table.count_rows() >= APPROXIMATE and (fresh or gone or settings.recall is None):
            settings = _approximate(table, folder, settings)
    with contextlib.suppress(Exception):  # cleanup only: old versions and small files
        table.optimize()
    left_out = tuple(f"{name}: {reason}" for name, reason in skipped.items())
    notes = tuple(encoding_notes(fresh)) if settings.kind == "documents" else ()
    yield Indexed(len(fresh), len(fresh), len(gone), left_out, notes, settings.recall)


def _are_strange(items: list[Item], settings: Index) -> bool:
    """Whether some document has hardly any words of the index's vocabulary.

    If so, the vocabulary is fitted again.
    """
    terms = Terms(tuple(settings.terms), tuple(settings.weights))
    for item in items:
        with contextlib.suppress(DataError, PictureError, OSError):  # encoding reports the error
            if terms.known(text_of(item)) < STRANGE:
                return True
    return False


def _approximate(table: Any, folder: Path, settings: Index) -> Index:
    """Build an approximate index, and measure its recall.

    The recall is measured for the 12 nearest items, with 100 items as queries.
    """
    from lancedb.index import IvfFlat

    table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)
    vectors = np.stack(table.to_arrow()["vector"].to_numpy(zero_copy_only=False))
    hits = 0
    asked = vectors[:: max(1, len(vectors) // 100)][:100]
    for query in asked:
        # compare distances, since several items may have equal codes
        last = nearest(table, query, 12)[-1]["_distance"]
        hits += sum(r["_distance"] <= last + 1e-6 for r in nearest(table, query, 12, exact=False))
    measured = settings.model_copy(update={"recall": hits / (12 * len(asked))})
    keep(measured, folder)
    return measured
