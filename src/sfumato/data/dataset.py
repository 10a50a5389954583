"""A data set: pictures, rows of numbers or documents, with labels if there are any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import DataError

Kind = Literal["pictures", "numbers", "documents"]
LONGEST = 200  # letters of a label: all labels take as much memory as the longest
MISSING_SHARE = 0.5  # a column in which a larger share of the values is missing is left out


@dataclass(frozen=True, eq=False)
class Table:
    """A data set.

    Attributes
    ----------
    kind : {"pictures", "numbers", "documents"}
    rows : array, (N, d)
        Values of pictures (float32, 0 to 1) or numbers (float64); empty for documents.
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
        One sentence for each text file whose encoding was guessed, for an unnamed column of row
        numbers that was left out, and for an array of labels that does not fit the rows; also one
        with the number of rows that have missing values.
    columns : list of str
        Names of the columns of `rows`; empty if they have no names.
    """

    kind: Kind
    rows: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    texts: list[str] = field(default_factory=list)
    labels: NDArray[np.str_] | None = None
    shape: tuple[int, int, int] | None = None
    test: NDArray[np.bool_] | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)

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


def labels_of(values: Iterable[Any]) -> NDArray[np.str_] | None:
    """Return labels as text, or None if there are fewer than two different labels."""
    found = np.array([word(v) for v in values], dtype=np.str_)
    return found if len(set(found.tolist()) - {""}) > 1 else None


def word(value: Any) -> str:
    """Return a label as text of at most `LONGEST` letters; "" if the value is missing."""
    if isinstance(value, list | tuple | np.ndarray):
        value = value[0] if len(value) else ""
    return "" if value is None or value != value else str(value)[:LONGEST]


def usable(table: Table, source: str) -> Table:
    """Leave out rows with a missing value or an empty text, and columns of mostly missing values.

    A missing value is NaN or infinite. What is left out is listed in ``skipped``. If the columns
    have names, a note gives the number of rows that are left out.

    Raises
    ------
    DataError
        If fewer than 3 rows are left; `source` is the name of the data in the message.
    """
    if table.kind == "documents":
        good = np.array([bool(text.strip()) for text in table.texts], np.bool_)
        wrong = [f"row {k}: it is empty" for k in np.flatnonzero(~good)]
        notes = []
    else:
        table = _without_empty_columns(table)
        missing = ~np.isfinite(table.rows)
        good = ~missing.any(axis=1)
        wrong = [f"row {k}: {_where(missing[k], table.columns)}" for k in np.flatnonzero(~good)]
        notes = _count_missing(missing, table.columns) if table.columns else []
    if good.sum() < 3:
        problems = wrong or table.skipped
        first = f"; the first problem is {problems[0]}" if problems else ""
        raise DataError(f"{source} has {int(good.sum())} usable rows; at least 3 are needed{first}")
    kept = table if good.all() else table.take(good)
    return replace(kept, skipped=table.skipped + wrong, notes=table.notes + notes)


def _without_empty_columns(table: Table) -> Table:
    """Leave out named columns in which more than half of the values are missing."""
    if not table.columns:
        return table
    shares = 1 - np.isfinite(table.rows).mean(axis=0)
    kept = shares <= MISSING_SHARE
    left_out = [
        f"column {name}: {share:.0%} of its values are missing"
        for name, share, keep in zip(table.columns, shares, kept, strict=True)
        if not keep
    ]
    columns = [name for name, keep in zip(table.columns, kept, strict=True) if keep]
    if not columns:
        raise DataError(f"no column has enough values: {'; '.join(left_out[:5])}")
    rows = table.rows[:, kept]
    return replace(table, rows=rows, columns=columns, skipped=table.skipped + left_out)


def _where(missing: NDArray[np.bool_], columns: list[str]) -> str:
    """Say which values of a row are missing."""
    names = [columns[k] for k in np.flatnonzero(missing)] if columns else ["it"]
    more = f" and {len(names) - 3} more columns" if len(names) > 3 else ""
    verb = "holds" if len(names) == 1 else "hold"
    return f"{', '.join(names[:3])}{more} {verb} NaN or infinity"


def _count_missing(missing: NDArray[np.bool_], columns: list[str]) -> list[str]:
    """Return a note: the number of rows left out, and of missing values per column."""
    rows = int(missing.any(axis=1).sum())
    if rows < 2:
        return []
    counts = missing.sum(axis=0)
    worst = [k for k in np.argsort(-counts, kind="stable")[:5] if counts[k]]
    named = ", ".join(f"{columns[k]} {counts[k]}" for k in worst)
    return [f"{rows} of {len(missing)} rows are left out, with missing values by column: {named}"]
