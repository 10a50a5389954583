"""Data sets from the columns of a table or a DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfumato.data.dataset import Table, labels_of
from sfumato.data.tables import (
    TEXTS,
    held_out_rows,
    label_column,
    number_columns,
    text_column,
    used_rows,
)
from sfumato.errors import DataError, unknown


def arrow_table(frame: Any) -> Any:
    """Convert a DataFrame of pandas or polars to a pyarrow table, unless it is one.

    Raises
    ------
    DataError
        If a column cannot be converted, or pyarrow is missing.
    """
    try:
        import pyarrow

        if isinstance(frame, pyarrow.Table):
            return frame
        if hasattr(frame, "to_arrow"):
            return frame.to_arrow()
        return pyarrow.Table.from_pandas(frame, preserve_index=False)
    except ImportError:
        raise DataError('reading tables needs pyarrow: pip install "sfumato[reduce]"') from None
    except Exception as error:  # pyarrow has many errors of its own
        raise DataError(f"the DataFrame cannot be read as a table: {error}") from None


def label_name(table: Any, label: str | None) -> str | None:
    """Return `label`, or else the first column with a usual name such as ``target``, or None.

    Raises
    ------
    OptionError
        If the table does not have the given column.
    """
    if label and label not in table.column_names:
        raise unknown("column", label, table.column_names)
    return label or label_column(table)


def columns_of(table: Any, label: str | None, source: str, notes: list[str]) -> Table:
    """Build a data set of documents or numbers from a pyarrow table.

    Raises
    ------
    DataError
        If no column holds texts or numbers; `source` is the name of the table in the message.
    OptionError
        If `label` names no column.
    """
    known = label_name(table, label)
    if not table.num_rows:
        raise DataError(f"{source} has no rows")
    table = table.filter(used_rows(table).tolist())
    labels = labels_of(table[known].to_pylist()) if known else None
    test = held_out_rows(table)
    numeric = [name for name in number_columns(table) if name != known]
    text = text_column(table)
    if text is not None and text not in numeric:
        if numeric:
            notes = [
                *notes,
                f"{', '.join(numeric)}: not used, because the column {text} makes this a table of "
                "documents",
            ]
        texts = ["" if t is None else str(t) for t in table[text].to_pylist()]
        return Table("documents", texts=texts, labels=labels, test=test, notes=notes)
    if not numeric:
        raise DataError(
            f"{source} has no column of numbers, text ({', '.join(TEXTS)}) or pictures; found "
            f"{', '.join(table.column_names)}"
        )
    rows = np.stack([table[n].cast("float64", safe=False).to_numpy() for n in numeric], axis=1)
    used = {*numeric, known, "split"}
    left_out = [f"column {n}: no numbers" for n in table.column_names if n not in used]
    return Table(
        "numbers",
        rows,
        labels=labels,
        test=test,
        skipped=left_out,
        notes=notes,
        columns=numeric,
    )
