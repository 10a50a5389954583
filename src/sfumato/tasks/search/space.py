"""The space of an index: the estimator that encodes its items.

This module fits it, saves it in the index's folder, and encodes items with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sfumato import image
from sfumato.config import Config
from sfumato.data.terms import Terms
from sfumato.data.text import document
from sfumato.errors import DataError, ModelError, OptionError, PictureError, unknown
from sfumato.estimators import LSA, PCA, Autoencoder
from sfumato.runtime import atomic
from sfumato.tasks.search.items import Item
from sfumato.tasks.search.matcher import ImageTextSpace, has_matcher

Kind = Literal["pictures", "documents"]
KINDS = {"pca": PCA, "lsa": LSA, "autoencoder": Autoencoder}


# largest number of items to which a space is fitted, and largest size of their pictures in bytes
FITTED, FITTED_BYTES = 20_000, 2**30
# why the code of an item is zero
NO_CODE: dict[Kind, str] = {
    "documents": "it has no word of the vocabulary",
    "pictures": "it does not differ from the mean of the pictures to which the space is fitted",
}
DISPLAYED_LETTERS = 160  # letters of a document that are kept for display


class Index(Config):
    """Contents of ``index.json``."""

    kind: Kind
    source: str
    space: str
    side: int = 32
    terms: list[str] = []
    weights: list[float] = []
    # recall of the approximate index, measured with 100 queries; None if search is exact
    recall: float | None = None


def parse_space(space: str) -> tuple[str, int] | Path:
    """Parse a space: its kind and code length, or the folder or name of a fitted one."""
    name, _, codes = space.partition(":")
    if (Path(space) / "estimator.json").exists() or has_matcher(space):
        return Path(space)
    if name not in KINDS:
        raise unknown("space", name, [*KINDS, "icons"])
    if not codes.isdigit() or int(codes) < 1:
        raise OptionError(
            f'space "{space}" cannot be read; write {name}:30, with the code length after the colon'
        )
    return name, int(codes)


def fit_space(
    kind: Kind,
    items: list[Item],
    source: Path,
    folder: Path,
    space: str | None,
    side: int,
) -> Index:
    """Fit the space to a sample of the items (every n-th), or open a space fitted before.

    ``index.json`` is written last.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "space").exists():
        raise OptionError(f"{folder} is not empty and not an index; give another --output")
    chosen = space or ("pca:30" if kind == "pictures" else "lsa:128")
    parsed = parse_space(chosen)
    model = _opened(chosen, parsed) if isinstance(parsed, Path) else None
    if kind == "documents" and model is not None:
        what = (
            "is a space of pictures"
            if isinstance(model, ImageTextSpace)
            else "was fitted to the words of other documents"
        )
        raise OptionError(f"{chosen} {what}, and {source} holds documents; give --space lsa:128")
    side = model.side if isinstance(model, ImageTextSpace) else side
    settings = Index(kind=kind, source=str(source.resolve()), space=chosen, side=side)
    # without fitting, a few items suffice to check the width of the rows
    sample = _sample(items, kind, side) if model is None else items[:8]
    if kind == "documents":
        settings = _with_terms(settings, sample)
    rows, good, skipped = rows_of(sample, settings)
    if model is None:
        assert not isinstance(parsed, Path)
        if len(good) < 3:
            first = f"; first: {next(iter(skipped.values()))}" if skipped else ""
            raise DataError(f"{source} has {len(good)} usable items; at least 3 are needed{first}")
        model = _fitted(*parsed, kind, rows)
    elif len(good) and model.n_features_in_ != rows.shape[1]:
        raise OptionError(
            f"{parsed} takes rows of {model.n_features_in_} values, but these items have "
            f"{rows.shape[1]}; see --side"
        )
    model.save(folder / "space")
    keep(settings, folder)
    return settings


def _opened(chosen: str, folder: Path) -> Any:
    """Open a space that was fitted before: a model with a matcher, or a saved estimator."""
    return ImageTextSpace.open(chosen) if has_matcher(chosen) else load_space(folder)


def _sample(items: list[Item], kind: Kind, side: int) -> list[Item]:
    """Evenly spaced items, at most `FITTED` and, for pictures, `FITTED_BYTES`."""
    most = FITTED
    if kind == "pictures":
        most = max(3, min(FITTED, FITTED_BYTES // (12 * side * side)))
    return items[:: -(-len(items) // most)]


def _with_terms(settings: Index, sample: list[Item]) -> Index:
    """The settings with the vocabulary of the documents."""
    texts = []
    for item in sample:
        with contextlib.suppress(DataError, PictureError, OSError):  # encoding reports the error
            texts.append(text_of(item))
    terms = Terms.fit(texts)
    words, weights = list(terms.words), list(terms.weights)
    return settings.model_copy(update={"terms": words, "weights": weights})


def _fitted(name: str, codes: int, kind: Kind, rows: Any) -> Any:
    """A new estimator, fitted to rows."""
    if kind == "documents" and name == "pca":
        raise OptionError(
            "pca is not suited to documents, whose word counts are mostly zero; lsa is its "
            "counterpart: give --space lsa:128"
        )
    return KINDS[name](min(codes, *rows.shape), random_state=0).fit(rows)


def keep(settings: Index, folder: Path) -> None:
    """Write ``index.json``."""
    with atomic(folder / "index.json") as scratch:
        scratch.write_text(settings.model_dump_json(indent=2), "utf-8")


def index_settings(folder: Path) -> Index:
    """Read ``index.json``."""
    try:
        return Index.read(
            json.loads((folder / "index.json").read_text("utf-8")), str(folder / "index.json")
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{folder} is not an index (sfumato index creates one): {why}") from None


def load_space(folder: Path) -> PCA | LSA | Autoencoder | ImageTextSpace:
    """The fitted space of an index."""
    try:
        name = str(json.loads((folder / "estimator.json").read_text("utf-8"))["estimator"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no estimator: {error}") from None
    kinds = (PCA, LSA, Autoencoder, ImageTextSpace)
    known: dict[str, Any] = {kind.__name__: kind for kind in kinds}
    known["Matched"] = ImageTextSpace  # its name in older indexes
    if name not in known:
        raise unknown("estimator", name, known)
    model: PCA | LSA | Autoencoder | ImageTextSpace = known[name].load(folder)
    return model


def encoding_notes(items: list[Item]) -> Iterator[str]:
    """Yield a sentence for each document whose encoding was guessed."""
    for item in items:
        with contextlib.suppress(DataError, PictureError, OSError):  # encoding reports the error
            _, note = document(item.sample.read())
            if note:
                yield f"{item.name}: {note}"


def text_of(item: Item) -> str:
    """The text of a document."""
    return document(item.sample.read())[0]


def rows_of(items: list[Item], settings: Index) -> tuple[Any, list[Item], dict[str, str]]:
    """Read items; return the rows of the readable items, these items, and errors.

    The errors are those of the other items, by name.
    """
    good: list[Item] = []
    read: list[Any] = []
    skipped = {}
    for item in items:
        try:
            if settings.kind == "documents":
                read.append(text_of(item))
            else:
                picture = image.crop_to(
                    image.read(item.sample.read()), (settings.side, settings.side)
                )
                read.append(np.asarray(picture, np.float32).transpose(2, 0, 1).ravel() / 255)
            good.append(item)
        except (PictureError, DataError, OSError) as error:
            skipped[item.name] = str(error)
    if settings.kind == "documents":
        return Terms(tuple(settings.terms), tuple(settings.weights))(read), good, skipped
    return np.stack(read) if read else np.zeros((0, 0), np.float32), good, skipped


def encode(
    items: list[Item], settings: Index, model: Any, skipped: dict[str, str]
) -> list[dict[str, Any]]:
    """Encode items as rows of the database; `skipped` receives the errors of other items."""
    rows, good, wrong = rows_of(items, settings)
    skipped.update(wrong)
    if not good:
        return []
    codes = model.transform(rows).astype(np.float32)
    out = []
    for item, code in zip(good, codes, strict=True):
        text = (
            " ".join(text_of(item).split())[:DISPLAYED_LETTERS]
            if settings.kind == "documents"
            else ""
        )
        if not code.any():
            skipped[item.name] = NO_CODE[settings.kind]
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
