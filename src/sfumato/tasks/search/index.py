"""Search: items as codes in an embedded database; the nearest to a text or a picture.

An index is a folder: ``index.json`` (what it holds), ``space/`` (the fitted estimator) and a
LanceDB table. Items are written in batches, each of them whole or not at all and keyed by name, so
an index that was killed is finished by running the same command again. Only new and changed items
are encoded, and those that are gone leave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.terms import Terms
from sfumato.errors import OptionError, PictureError
from sfumato.runtime import check_folder
from sfumato.tasks.search.database import nearest, open_table, quoted, writing
from sfumato.tasks.search.items import Item, items_of
from sfumato.tasks.search.space import (
    KINDS,
    Index,
    encode,
    fit_space,
    keep,
    load_space,
    parse_space,
    settings_of,
    text_of,
)

BATCH = 512  # items that are encoded and written at once
APPROXIMATE = 500_000  # items from which on an approximate index is built
STRANGE = 0.2  # a document of which a smaller share of words is known is one of new words


@dataclass(frozen=True)
class Indexed:
    """Progress: items encoded, of how many that are new or changed; at the end what left, what was
    skipped, and the recall.

    The recall is that of the approximate index, None where search is exact.
    """

    done: int
    total: int
    removed: int = 0
    skipped: tuple[str, ...] = ()
    recall: float | None = None


def index(
    source: Path | str, folder: Path | str, space: str | None = None, *, side: int | None = None
) -> Indexed:
    """Index pictures or documents, or bring an index up to date.

    Parameters
    ----------
    source : Path
        Folder of pictures or of ``.txt`` files, ``.parquet`` or ``.tar``.
    folder : Path
        Of the index.
    space : str, optional
        ``pca:30``, ``autoencoder:30``, ``lsa:128``, fitted to the data; the folder of a saved
        estimator; or a text-to-image model with a matcher, as ``icons``, by which pictures are
        found by words. Kept from the first call; by default pca:30 for pictures and lsa:128 for
        documents.
    side : int, optional
        Pixels that pictures are brought to, 4 to 512; 32 by default.

    Returns
    -------
    Indexed
        What came of it.

    Raises
    ------
    DataError, OptionError, ModelError
    """
    *_, last = indexing(source, folder, space, side=side)
    return last


def indexing(
    source: Path | str, folder: Path | str, space: str | None = None, *, side: int | None = None
) -> Iterator[Indexed]:
    """:func:`index`, with its progress; what is encoded stays if it is stopped."""
    source, folder = Path(source), Path(folder)
    if space is not None:
        parse_space(space)
    if side is not None and not 4 <= side <= 512:
        raise OptionError(f"side {side} is not within 4 to 512 pixels")
    check_folder(folder)
    new = not folder.exists()
    kind, items = items_of(source)
    if (folder / "index.json").exists():
        settings = settings_of(folder)
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
            # first: codes of the old space must not stand beside the new one, whenever this ends
            table.delete("true")
            # to the words that are there now
            settings = fit_space(kind, items, source, folder, settings.space, settings.side)
            have, fresh = {}, items
    yield Indexed(0, len(fresh))
    yield from _written(folder, table, settings, items, fresh, have, new=new)


def _check_same(
    settings: Index, folder: Path, source: Path, kind: str, space: str | None, side: int | None
) -> None:
    """Refuse to bring an index up to date with other data, or in another way."""
    if (settings.kind, settings.space) != (kind, space or settings.space):
        raise OptionError(
            f"{folder} is an index of {settings.kind} in space {settings.space}; give another "
            "--output"
        )
    if settings.source != str(source.resolve()):
        raise OptionError(f"{folder} is the index of {settings.source}; give another --output")
    if kind == "pictures" and side not in (None, settings.side):
        raise OptionError(
            f"{folder} holds pictures brought to {settings.side} pixels; give another --output "
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
    """Encode and write what is fresh, and take out what is gone."""
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
    with contextlib.suppress(Exception):  # tidying only: old versions and small files
        table.optimize()
    left_out = tuple(f"{name}: {reason}" for name, reason in skipped.items())
    yield Indexed(len(fresh), len(fresh), len(gone), left_out, settings.recall)


def _are_strange(items: list[Item], settings: Index) -> bool:
    """Whether a document has hardly a word that the index knows: its words are then to be
    learned.
    """
    terms = Terms(tuple(settings.terms), tuple(settings.weights))
    for item in items:
        with contextlib.suppress(PictureError, OSError):  # it is listed when it is encoded
            if terms.known(text_of(item)) < STRANGE:
                return True
    return False


def _approximate(table: Any, folder: Path, settings: Index) -> Index:
    """Build an approximate index and measure how many of the true 12 nearest it finds, over 100 of
    the items.
    """
    from lancedb.index import IvfFlat

    table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)
    vectors = np.stack(table.to_arrow()["vector"].to_numpy(zero_copy_only=False))
    hits = 0
    asked = vectors[:: max(1, len(vectors) // 100)][:100]
    for query in asked:
        # by distance, as equal codes have many names
        last = nearest(table, query, 12)[-1]["_distance"]
        hits += sum(r["_distance"] <= last + 1e-6 for r in nearest(table, query, 12, exact=False))
    measured = settings.model_copy(update={"recall": hits / (12 * len(asked))})
    keep(measured, folder)
    return measured
