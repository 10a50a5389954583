"""Search: items as codes in an embedded database; the nearest to a text or a picture.

An index is a folder: ``index.json`` (what it holds), ``space/`` (the fitted estimator) and a
LanceDB table. Items are written in batches, each of them whole or not at all and keyed by name, so
an index that was killed is finished by running the same command again. Only new and changed items
are encoded, and those that are gone leave.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.config import Config
from sfumato.data.samples import Sample, find
from sfumato.data.terms import Terms
from sfumato.data.text import decode
from sfumato.errors import DataError, ModelError, OptionError, PictureError, unknown
from sfumato.estimators import LSA, PCA, Autoencoder
from sfumato.runtime import atomic, check_folder
from sfumato.tasks.search.database import named, nearest, open_table, quoted, writing
from sfumato.tasks.search.items import Item, items_of
from sfumato.tasks.search.matcher import Matched, has_matcher

KINDS = {"pca": PCA, "lsa": LSA, "autoencoder": Autoencoder}
BATCH = 512  # items that are encoded and written at once
# items that a space is fitted to, and what pictures of them may take, at most
FITTED, FITTED_BYTES = 20_000, 2**30
APPROXIMATE = 500_000  # items from which on an approximate index is built
STRANGE = 0.2  # a document of which a smaller share of words is known is one of new words
SHOWN = 160  # letters of a document that are kept for display


class Index(Config):
    """``index.json``."""

    kind: Literal["pictures", "documents"]
    source: str
    space: str
    side: int = 32
    terms: list[str] = []
    weights: list[float] = []
    # of the approximate index, measured on 100 queries; None where search is exact
    recall: float | None = None


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes
    ----------
    name : str
        Of the file, or the row of a table.
    similarity : float
        Cosine of the angle between the codes, -1 to 1.
    label, text : str
        Empty if there is none; the text is the beginning of a document.
    """

    name: str
    similarity: float
    label: str
    text: str


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
        _parse(space)
    if side is not None and not 4 <= side <= 512:
        raise OptionError(f"side {side} is not within 4 to 512 pixels")
    check_folder(folder)
    new = not folder.exists()
    kind, items = items_of(source)
    described = folder / "index.json"
    if described.exists():
        settings = _settings(folder)
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
    else:
        with writing(folder, new=new):
            settings = _fit(kind, items, source, folder, space, side or 32)
    with writing(folder, new=new):
        table = open_table(folder, codes=_load(folder / "space").n_components_)
        have = {
            r["name"]: r["stamp"]
            for r in table.search().select(["name", "stamp"]).limit(None).to_list()
        }
        fresh = [i for i in items if have.get(i.name) != i.stamp]
        if (
            kind == "documents"
            and have
            and settings.space.partition(":")[0] in KINDS
            and _are_strange(fresh, settings)
        ):
            # first: codes of the old space must not stand beside the new one, whenever this ends
            table.delete("true")
            # to the words that are there now
            settings = _fit(kind, items, source, folder, settings.space, settings.side)
            have, fresh = {}, items
    yield Indexed(0, len(fresh))
    yield from _written(folder, table, settings, items, fresh, have, new=new)


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
    model, skipped, wanted = _load(folder / "space"), dict[str, str](), {i.name for i in items}
    for start in range(0, len(fresh), BATCH):
        batch = fresh[start : start + BATCH]
        with writing(folder, new=new):
            rows = _encode(batch, settings, model, skipped)
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
            if terms.known(_text(item)) < STRANGE:
                return True
    return False


def search(folder: Path | str, query: str, k: int = 12, where: str | None = None) -> list[Hit]:
    """The `k` items nearest to a text, or to a picture or text file.

    Pictures that are searched by words come first where their name or label has all of the words.

    Parameters
    ----------
    folder : Path
        Of the index.
    query : str
        Words, or the path of a file.
    where : str, optional
        SQL over name, label and text: ``label = 'cat'``.
    """
    if k < 1:
        raise OptionError(f"k is {k}; it must be 1 or more")
    folder = Path(folder)
    settings = _settings(folder)
    code, table, exact = (
        _query(settings, _load(folder / "space"), query),
        open_table(folder),
        settings.recall is None,
    )
    try:
        rows = nearest(table, code, k, where, exact=exact)
        if settings.kind == "pictures" and not _is_file(query):
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
            f'the filter "{where}" cannot be used ({str(error).splitlines()[0]}); write SQL as '
            "label = 'cat'"
        ) from None
    return [Hit(r["name"], round(1 - r["_distance"], 6), r["label"], r["text"]) for r in rows]


def pictures(folder: Path | str, hits: list[Hit], side: int = 128) -> Image.Image:
    """The pictures of results on one sheet, nearest first."""
    settings = _settings(Path(folder))
    if settings.kind != "pictures":
        raise OptionError("this index holds documents: there are no pictures to show")
    if not hits:
        raise DataError("nothing was found: there are no pictures to show")
    held = {s.name: s for s in find(Path(settings.source))}
    found = []
    for sample in (held[h.name] for h in hits if h.name in held):
        with contextlib.suppress(PictureError, OSError):  # it was changed since
            found.append(image.crop_to(image.read(sample.read()), (side, side)))
    if not found:
        raise DataError(f"none of the pictures found is still in {settings.source}")
    return image.sheet(found)


def _parse(space: str) -> tuple[str, int] | Path:
    name, _, codes = space.partition(":")
    if (Path(space) / "estimator.json").exists() or has_matcher(space):
        return Path(space)
    if name not in KINDS:
        raise unknown("space", name, [*KINDS, "icons"])
    if not codes.isdigit() or int(codes) < 1:
        raise OptionError(
            f'space "{space}" cannot be read; write {name}:30, the number of codes behind the colon'
        )
    return name, int(codes)


def _fit(
    kind: Literal["pictures", "documents"],
    items: list[Item],
    source: Path,
    folder: Path,
    space: str | None,
    side: int,
) -> Index:
    """Fit the space to an even sample of the items, and describe the index; the description is
    written last.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "space").exists():
        raise OptionError(f"{folder} is no index and not empty; give another --output")
    chosen = space or ("pca:30" if kind == "pictures" else "lsa:128")
    most = (
        FITTED if kind == "documents" else max(3, min(FITTED, FITTED_BYTES // (12 * side * side)))
    )
    sample = items[:: -(-len(items) // most)]
    parsed = _parse(chosen)
    model: Any = None
    if isinstance(parsed, Path):
        model = Matched.open(chosen) if has_matcher(chosen) else _load(parsed)
        # nothing is fitted: they show whether the rows are as the space takes them
        sample = sample[:8]
    if kind == "documents" and model is not None:
        what = (
            "is a space of pictures"
            if isinstance(model, Matched)
            else "was fitted to the words of other documents"
        )
        raise OptionError(f"{chosen} {what}, and {source} holds documents; give --space lsa:128")
    side = model.side if isinstance(model, Matched) else side
    settings = Index(kind=kind, source=str(source.resolve()), space=chosen, side=side)
    if kind == "documents":
        texts = []
        for item in sample:
            with contextlib.suppress(PictureError, OSError):  # it is listed when it is encoded
                texts.append(_text(item))
        terms = Terms.fit(texts)
        settings = settings.model_copy(
            update={"terms": list(terms.words), "weights": list(terms.weights)}
        )
    rows, good, skipped = _rows(sample, settings)
    if isinstance(parsed, Path):
        if len(good) and model.n_features_in_ != rows.shape[1]:
            raise OptionError(
                f"{parsed} takes rows of {model.n_features_in_} values, these items have "
                f"{rows.shape[1]}; see --side"
            )
    else:
        name, codes = parsed
        if kind == "documents" and name == "pca":
            raise OptionError(
                "documents are counts of words, mostly zero: lsa is their pca; give --space lsa:128"
            )
        if len(good) < 3:
            raise DataError(
                f"{source} has {len(good)} usable items; at least 3 are "
                f"needed{'; first: ' + next(iter(skipped.values())) if skipped else ''}"
            )
        model = KINDS[name](min(codes, *rows.shape), random_state=0).fit(rows)
    model.save(folder / "space")
    _keep(settings, folder)
    return settings


def _keep(settings: Index, folder: Path) -> None:
    with atomic(folder / "index.json") as scratch:
        scratch.write_text(settings.model_dump_json(indent=2), "utf-8")


def _settings(folder: Path) -> Index:
    try:
        return Index.read(
            json.loads((folder / "index.json").read_text("utf-8")), str(folder / "index.json")
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is no index (sfumato index makes one): {error}") from None


def _load(folder: Path) -> PCA | LSA | Autoencoder | Matched:
    try:
        name = str(json.loads((folder / "estimator.json").read_text("utf-8"))["estimator"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no estimator: {error}") from None
    known: dict[str, Any] = {kind.__name__: kind for kind in (PCA, LSA, Autoencoder, Matched)}
    if name not in known:
        raise unknown("estimator", name, known)
    model: PCA | LSA | Autoencoder | Matched = known[name].load(folder)
    return model


def _text(item: Item) -> str:
    return decode(item.sample.read())[0]


def _rows(items: list[Item], settings: Index) -> tuple[Any, list[Item], dict[str, str]]:
    """Rows of the items that can be read, those items, and by name what is wrong with the
    others.
    """
    good: list[Item] = []
    read: list[Any] = []
    skipped = {}
    for item in items:
        try:
            if settings.kind == "documents":
                read.append(_text(item))
            else:
                picture = image.crop_to(
                    image.read(item.sample.read()), (settings.side, settings.side)
                )
                read.append(np.asarray(picture, np.float32).transpose(2, 0, 1).ravel() / 255)
            good.append(item)
        except (PictureError, OSError) as error:
            skipped[item.name] = str(error)
    if settings.kind == "documents":
        return Terms(tuple(settings.terms), tuple(settings.weights))(read), good, skipped
    return np.stack(read) if read else np.zeros((0, 0), np.float32), good, skipped


def _encode(
    items: list[Item], settings: Index, model: Any, skipped: dict[str, str]
) -> list[dict[str, Any]]:
    rows, good, wrong = _rows(items, settings)
    skipped.update(wrong)
    if not good:
        return []
    codes = model.transform(rows).astype(np.float32)
    out = []
    for item, code in zip(good, codes, strict=True):
        text = " ".join(_text(item).split())[:SHOWN] if settings.kind == "documents" else ""
        if not code.any():
            skipped[item.name] = "it has no known word"
            continue
        out.append(
            {
                "name": item.name,
                "stamp": item.stamp,
                "label": item.label,
                "text": text,
                "vector": code.tolist(),
            }
        )
    return out


def _is_file(query: str) -> bool:
    return os.path.isfile(query)  # noqa: PTH113 (a text too long for a name is no error here)


def _query(settings: Index, model: Any, query: str) -> NDArray[np.float32]:
    path, is_file = Path(query), _is_file(query)
    if not is_file and path.suffix.lower() in image.SUFFIXES | {".txt"}:
        raise OptionError(f"{query} does not exist")
    if settings.kind == "pictures":
        if not is_file and isinstance(model, Matched):
            return model.words(query)
        if not is_file:
            raise OptionError(
                f'"{query}" is no picture file; an index of pictures is searched by example, '
                "unless made with --space icons"
            )
        sample = Sample(query, (), path.read_bytes)
    else:
        sample = Sample(query, (), path.read_bytes if is_file else query.encode)
    rows, good, skipped = _rows([Item(query, "", "", sample)], settings)
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
    _keep(measured, folder)
    return measured
