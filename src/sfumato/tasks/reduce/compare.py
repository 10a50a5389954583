"""Compare PCA and autoencoders on the same data at equal code lengths.

:func:`reduce` does all the work; :func:`compare` yields a :class:`Trial` after each fit;
:mod:`sfumato.tasks.reduce.report` writes the report.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.corruption.base import check_for_rows
from sfumato.data.dataset import Table
from sfumato.data.rows import read, table_of
from sfumato.data.terms import Terms
from sfumato.errors import DataError, OptionError
from sfumato.estimators import LSA, PCA, Autoencoder
from sfumato.metrics import knn_accuracy, mean_average_precision, precision_at, squared_error
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.reduce.results import Outliers, Trial, verdict
from sfumato.types import Progress, Reporting

RANKS = [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023]  # neighbors for retrieval precision
REPEATED = 0.05  # share of held-out rows that may be equal to training rows without a note
PICTURES_PER_ROW = 12  # pictures in a row of reconstructions
GRID_SIDE = 20  # side of the grid of codes that is decoded for a map


@dataclass(eq=False)  # arrays have no single truth value
class Comparison:
    """Data, options and results of a comparison."""

    table: Table
    options: ReduceOptions
    train: Any = field(repr=False)
    test: Any = field(repr=False)
    train_labels: NDArray[np.str_] | None = field(repr=False)
    test_labels: NDArray[np.str_] | None = field(repr=False)
    places: NDArray[np.int64] = field(repr=False)  # indices of the test rows in the table
    trials: list[Trial] = field(default_factory=list)
    outliers: list[Outliers] = field(default_factory=list)

    def verdict(self) -> list[str]:
        """Summarize the comparison in sentences.

        The sentences give the best method at each length, whether the linear method suffices, and
        the effect of outliers.
        """
        return verdict(self.trials, self.outliers, _methods(self)[0], self.options, self.table.kind)


def reduce(data: Any, options: ReduceOptions | None = None) -> Comparison:
    """Compare PCA (LSA for documents) with autoencoders at equal code lengths.

    Parameters
    ----------
    data : path, array, DataFrame, list or Table
        A path for :func:`sfumato.data.rows.read`, or data for
        :func:`sfumato.data.rows.table_of`: rows of numbers (N, d), pictures (N, H, W) or
        (N, H, W, C), a DataFrame, a list of texts, or a list of ``Path`` objects of pictures. A
        warning counts rows that are left out.
    options : ReduceOptions, optional
        `size` applies only to a path; `label` to a path or a DataFrame.

    Returns
    -------
    Comparison
        ``trials``, ``outliers`` and ``verdict()``; :func:`sfumato.tasks.reduce.report.write` writes
        its report.

    Raises
    ------
    DataError, OptionError
        For data that cannot be used, and for a code length that is too large. A code length must be
        smaller than the number of training rows and smaller than the number of values per row.

    Examples
    --------
    >>> line = np.random.default_rng(0).normal(size=(60, 4)) @ np.ones((4, 9))
    >>> rows = line  # of one dimension, in nine numbers
    >>> found = reduce(rows, ReduceOptions(codes=(1,), epochs=1, outliers=0))
    >>> found.verdict()[0][:33]
    'With codes of length 1 PCA wins, '
    """
    options = ReduceOptions.of(options)
    table = data if isinstance(data, Table) else gather(data, options)
    found = start(table, options)
    for line in found.table.notes:
        warnings.warn(line, stacklevel=2)
    for _ in compare(found):
        pass
    return found


def gather(data: Any, options: ReduceOptions) -> Table:
    """Read the rows of a file, a folder or data in memory; with ``limit``, a random sample of them.

    Raises
    ------
    DataError
        If the data have no usable rows; the message gives the reason.
    """
    if isinstance(data, str | Path):
        table = read(Path(data), size=options.size, label=options.label)
    else:
        table = table_of(data, options.label)
    table = table if options.label else _without_measured_labels(table)
    if options.limit is None or options.limit >= len(table):
        return table
    chosen = np.random.default_rng(options.seed).permutation(len(table))[: options.limit]
    return table.take(np.sort(chosen))


def _without_measured_labels(table: Table) -> Table:
    """Drop labels that are measured numbers: most of them differ, so they name no groups."""
    labels = [] if table.labels is None else table.labels.tolist()
    if table.kind != "numbers" or 2 * len(set(labels)) <= len(table):
        return table
    try:
        [float(label) for label in labels if label]
    except ValueError:
        return table  # names
    note = "the labels are measured numbers, not groups: they are not used (--label uses them)"
    return replace(table, labels=None, notes=[*table.notes, note])


def start(table: Table, options: ReduceOptions) -> Comparison:
    """Split the data and turn documents into term counts.

    Raises
    ------
    DataError, OptionError
        If there are too few rows; if all values are equal; if a code length is too large (it must
        be smaller than the number of training rows and than the number of values per row); or if
        the corruption needs pictures and the rows are not pictures.
    """
    options.check_kind(table.kind)
    if table.shape is None and options.corruption is not None:
        check_for_rows(options.corruption)
    test = table.test if table.test is not None else _held_out(len(table), options)
    if test.sum() < 2 or (~test).sum() < 3:
        raise DataError(
            f"{len(table)} rows are too few: at least 3 to train on and 2 to test on are needed"
        )
    train, held = (
        _terms(table, test, options)
        if table.kind == "documents"
        else (table.rows[~test], table.rows[test])
    )
    if table.kind == "numbers":
        train, held = _scaled(train, held, standardize=options.standardize)
    if train.shape[1] < 2:
        raise DataError("there is one column of numbers: at least two are needed")
    table, options = _with_possible_codes(table, options, *train.shape)
    if float(train.max()) == float(train.min()):
        raise DataError("all values are the same: there is nothing to reduce")
    if table.kind != "documents":
        table = replace(table, notes=[*table.notes, *_repeated(train, held)])
    labels = table.labels
    labeled = labels is not None and (labels[~test] != "").any() and (labels[test] != "").sum() > 1
    known, asked = (labels[~test], labels[test]) if labeled and labels is not None else (None, None)
    return Comparison(table, options, train, held, known, asked, np.flatnonzero(test))


def _with_possible_codes(
    table: Table, options: ReduceOptions, rows: int, values: int
) -> tuple[Table, ReduceOptions]:
    """Leave out default code lengths that are too large, with a note.

    Raises
    ------
    OptionError
        If a given length is too large.
    """
    most = min(rows, values) - 1
    if max(options.codes) <= most:
        return table, options
    allowed = f"{rows} training rows of {values} values allow code lengths of at most {most}"
    if "codes" in options.model_fields_set:
        raise OptionError(f"--codes: {max(options.codes)} is too large: {allowed}")
    kept = tuple(k for k in options.codes if k <= most) or (most,)
    note = f"{allowed}: the lengths compared are {', '.join(map(str, kept))}"
    options = options.model_copy(update={"codes": kept})
    return replace(table, notes=[*table.notes, note]), options


def _scaled(
    train: NDArray[np.float64], held: NDArray[np.float64], *, standardize: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Convert both parts to float32; with `standardize`, standardize them by the training rows.

    Columns that are constant in the training rows are only centered.
    """
    if standardize:
        size = np.abs(train).max(axis=0)
        size[size == 0] = 1.0  # squares of large values would overflow
        scaled = train / size
        mean, spread = size * scaled.mean(axis=0), size * scaled.std(axis=0)
        del scaled
        spread[spread <= 1e-14 * size] = 1.0
        train, held = (train - mean) / spread, (held - mean) / spread
    with np.errstate(over="ignore"):
        parts = train.astype(np.float32), held.astype(np.float32)
    if not all(np.isfinite(part).all() for part in parts):
        raise DataError(
            "some values are too large for float32; scale them"
            + ("" if standardize else ", or leave out --no-standardize")
        )
    return parts


def _repeated(train: NDArray[np.float32], held: NDArray[np.float32]) -> list[str]:
    """A note if many held-out rows are also training rows."""
    known = {row.tobytes() for row in train}
    again = sum(row.tobytes() in known for row in held)
    if again <= REPEATED * len(held):
        return []
    return [
        f"{again} of the {len(held)} held-out rows are equal to training rows, so the errors say "
        "less about new data"
    ]


def _held_out(count: int, options: ReduceOptions) -> NDArray[np.bool_]:
    order = np.random.default_rng(options.seed).permutation(count)
    out = np.zeros(count, bool)
    out[order[: max(2, round(count * options.test_share))]] = True
    return out


def _terms(table: Table, test: NDArray[np.bool_], options: ReduceOptions) -> tuple[Any, Any]:
    """Weighted term counts, with the vocabulary of the training documents."""
    split = [
        [t for t, h in zip(table.texts, test, strict=True) if h == held] for held in (False, True)
    ]
    terms = Terms.fit(split[0], weighting=options.weighting)
    return terms(split[0]), terms(split[1])


def compare(found: Comparison) -> Iterator[Progress | Trial]:
    """Fit every method at every code length (and 2, for the maps); add the results to `found`.

    The progress counts fits; the share of the current fit that is done counts, too.
    """
    options = found.options
    lengths = sorted({2, *options.codes})  # a map needs codes of length 2
    jobs = [(name, k) for k in lengths for name in _methods(found)]
    contaminated = _methods(found)[:2] if options.outliers else []
    total = len(jobs) + len(contaminated)
    for done, (name, k) in enumerate(jobs):
        trial = yield from _trial(found, name, k, Progress(f"{name}, {k} codes", done, total))
        found.trials.append(trial)
        yield trial
    for done, name in enumerate(contaminated, len(jobs)):
        begun = Progress(f"{name}, {max(lengths)} codes, with outliers", done, total)
        found.outliers.append((yield from _with_outliers(found, name, max(lengths), begun)))
    yield Progress("done", total, total)


def _methods(found: Comparison) -> list[str]:
    if found.table.kind == "documents":
        return ["LSA", "autoencoder"]
    convolve = found.table.shape is not None and min(found.table.shape[1:]) >= 8
    return ["PCA", "autoencoder", *(["convolutional autoencoder"] if convolve else [])]


def _build(found: Comparison, method: str, k: int) -> Any:
    options, width = found.options, found.train.shape[1]
    if method == "PCA":
        return PCA(k, random_state=options.seed)
    if method == "LSA":
        return LSA(k, random_state=options.seed)
    epochs = options.epochs or max(20, min(500, 2_000_000 // found.train.shape[0] // 10))
    # documents have many words and are few, so regularize strongly
    corruption, decay = ("mask:0.5", 1.0) if found.table.kind == "documents" else ("none", 0.01)
    shared: dict[str, Any] = {
        "epochs": epochs,
        "loss": options.loss,
        "corruption": options.corruption or corruption,
        "weight_decay": decay,
        "random_state": options.seed,
        "device": options.device,
        "dtype": options.dtype,
        "shape": found.table.shape,
    }
    if method == "autoencoder":
        return Autoencoder(k, layers=options.layers or default_layers(width), **shared)
    return Autoencoder(k, kind="conv", layers=(32, 64, 128), **shared)


def default_layers(width: int) -> tuple[int, ...]:
    """Sizes of the hidden layers for rows of `width` values.

    For digits and documents, they are the sizes of Hinton & Salakhutdinov 2006.

    Examples
    --------
    >>> default_layers(784), default_layers(2000), default_layers(64)
    ((1000, 500, 250), (500, 250, 125), (128, 64))
    """
    if width >= 1500:
        return (500, 250, 125)
    return (1000, 500, 250) if width >= 300 else (max(16, 2 * width), max(8, width))


def _fit(model: Any, rows: Any, begun: Progress) -> Iterator[Progress]:
    """Fit a model; yield `begun`, then the progress after each hundredth of the training steps."""
    yield begun
    if not isinstance(model, Autoencoder):
        model.fit(rows).components_  # noqa: B018 (computed at the first access)
        return
    for step in model.fit_steps(rows):
        if step.step % max(1, step.steps // 100) == 0:
            yield replace(begun, done=begun.done + step.step / step.steps)


def _trial(found: Comparison, method: str, k: int, begun: Progress) -> Reporting[Trial]:
    model = _build(found, method, k)
    began = time.perf_counter()
    yield from _fit(model, found.train, begun)
    seconds = time.perf_counter() - began
    train, test = model.transform(found.train), model.transform(found.test)
    again = model.inverse_transform(test[:PICTURES_PER_ROW])
    size = (
        sum(p.numel() for p in model.space_.parameters())
        if isinstance(model, Autoencoder)
        else model.components_.size + model.mean_.size
    )
    accuracy: dict[int, float] = {}
    precision: dict[int, float] = {}
    average = None
    if found.train_labels is not None and found.test_labels is not None:
        known, asked = found.train_labels != "", found.test_labels != ""
        for n in sorted({1, min(found.options.neighbors, int(known.sum()))}):
            accuracy[n] = knn_accuracy(
                train[known], found.train_labels[known], test[asked], found.test_labels[asked], n
            )
        if found.table.kind == "documents":
            precision = precision_at(test[asked], found.test_labels[asked], RANKS)
            average = mean_average_precision(test[asked], found.test_labels[asked])
    return Trial(
        method,
        k,
        -model.score(found.test),
        seconds,
        int(size),
        accuracy,
        precision,
        average,
        test,
        again,
        _walk(model, test) if k == 2 and found.table.kind == "pictures" else None,
    )


def _walk(model: Any, codes: NDArray[Any]) -> NDArray[Any]:
    """Rows decoded from a grid of codes over the whole map."""
    across, up = (
        np.linspace(low, high, GRID_SIDE, dtype=codes.dtype)
        for low, high in zip(codes.min(axis=0), codes.max(axis=0), strict=True)
    )
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    rows: NDArray[Any] = model.inverse_transform(places)
    return rows


def _with_outliers(found: Comparison, method: str, k: int, begun: Progress) -> Reporting[Outliers]:
    """Fit to training rows with outliers, and measure the error on clean test rows.

    A share of the training rows is replaced by uniform noise over three times the range of the
    values.
    """
    dense = found.train.toarray() if hasattr(found.train, "toarray") else found.train.copy()
    low, high = float(dense.min()), float(dense.max())
    rng = np.random.default_rng(found.options.seed)
    chosen = rng.permutation(len(dense))[: max(1, round(len(dense) * found.options.outliers))]
    dense[chosen] = rng.uniform(
        low - (high - low), high + (high - low), (len(chosen), dense.shape[1])
    ).astype(dense.dtype)
    test = found.test.toarray() if hasattr(found.test, "toarray") else found.test
    clean = next(t.error for t in found.trials if (t.method, t.codes) == (method, k))
    model = _build(found, method, k)
    yield from _fit(model, dense, begun)
    return Outliers(
        method, k, clean, squared_error(test, model.inverse_transform(model.transform(test)))
    )
