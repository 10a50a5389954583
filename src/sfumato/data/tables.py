"""Read parquet and CSV tables; detect the delimiter, encoding and decimal sign of a CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.text import decode
from sfumato.errors import DataError

DELIMITERS = ",;\t|"
MISSING = tuple("NA N/A n/a NaN nan null NULL None #N/A ? - . missing".split()) + ("", " ")
DECIMAL_COMMA = re.compile(r"\s*-?\d+(,\d+)?\s*")
# names in a column "split", in lower case
TRAINING = frozenset({"train", "training"})
HELD_OUT = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval"})
YEARS = range(1800, 2101)  # numbers that may be the names of columns
# usual names of the columns of labels and of texts, in lower case
LABELS = (
    *("label", "labels", "y", "target", "class", "species", "category", "person"),
    *("y_train", "train_labels"),
)
TEXTS = ("text", "body", "document", "content")
# prefixes of pyarrow's names of numeric types
NUMBERS = ("int", "uint", "halffloat", "float", "double", "decimal", "bool")
SAMPLED = 50  # number of lines in which the delimiter is searched


def read_table(path: Path) -> tuple[Any, list[str]]:
    """Read a .parquet, .csv or .tsv file as a pyarrow table, with notes on guesses and omissions.

    Columns of a table without a header are named f0, f1, ... An unnamed column that counts the rows
    is left out.

    Raises
    ------
    DataError
        If the file cannot be read, has no rows, or has several columns of the same name.
    """
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise DataError('reading tables needs pyarrow: pip install "sfumato[reduce]"') from None
    try:
        if path.suffix.lower() == ".parquet":
            table, notes = pyarrow.parquet.read_table(path), list[str]()
        else:
            table, notes = _read_csv(path)
        names = table.column_names
    except Exception as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise DataError(f"{path} has several columns named {', '.join(twice[:5])}")
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    if "" in names and _counts_rows(table[""]):
        table = table.drop_columns([""])
        notes.append("the first column has no name and counts the rows: it is left out")
    return table, notes


def label_column(table: Any) -> str | None:
    """Return the first column of a table with a usual name of labels, such as ``label``.

    A column ``y`` of floating-point numbers beside a column ``x`` is a coordinate, not a label.
    """
    names = {name.lower(): name for name in reversed(table.column_names)}
    fractions = ("halffloat", "float", "double", "decimal")
    found = [names[usual] for usual in names if usual in LABELS]
    if "x" in names and "y" in names:
        kind = str(table.schema.field(names["y"]).type)
        found = [name for name in found if name != names["y"] or not kind.startswith(fractions)]
    return next((name for name in table.column_names if name in found), None)


def number_columns(table: Any) -> list[str]:
    """Return the columns of a table that hold numbers."""
    return [
        name
        for name in table.column_names
        if str(table.schema.field(name).type).startswith(NUMBERS)
    ]


def text_column(table: Any) -> str | None:
    """Return the first column of a table with a usual name of texts, such as ``text``.

    A column of numbers is returned only if there is no other.
    """
    found = [name for name in table.column_names if name.lower() in TEXTS]
    numbers = number_columns(table)
    return next((name for name in found if name not in numbers), found[0] if found else None)


def _read_csv(path: Path) -> tuple[Any, list[str]]:
    text, note = decode(path.read_bytes())
    delimiter = find_delimiter(text, "\t" if path.suffix.lower() == ".tsv" else ",")
    table = _parse(text, delimiter, ".")
    if delimiter != "," and any(_has_decimal_commas(table[name]) for name in table.column_names):
        table = _parse(text, delimiter, ",")
    return table, [note] if note else []


def _parse(text: str, delimiter: str, decimal: str) -> Any:
    import pyarrow.csv

    content = text.encode()
    # one thread: with torch loaded, pyarrow's threads abort a process that exits early (SIGABRT)
    named = pyarrow.csv.ReadOptions(
        autogenerate_column_names=is_headless(text, delimiter), use_threads=False
    )
    lines = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    values = pyarrow.csv.ConvertOptions(decimal_point=decimal, null_values=list(MISSING))
    return pyarrow.csv.read_csv(
        io.BytesIO(content), named, parse_options=lines, convert_options=values
    )


def find_delimiter(text: str, usual: str) -> str:
    """Find the delimiter of a table.

    The delimiter is `usual` if the first line contains it. Otherwise, it is the first sign among
    comma, semicolon, tab and ``|`` that divides each of the first 50 rows into the same number of
    cells, at least two. Without such a sign, it is also `usual`.

    Examples
    --------
    >>> find_delimiter("a;b\\n1,5;2\\n", ","), find_delimiter("a,b\\n1,2\\n", ",")
    (';', ',')
    >>> find_delimiter("text\\none; two\\nthree\\n", ",")
    ','
    """

    def widths(sign: str) -> set[int]:
        with contextlib.suppress(csv.Error):
            return {
                len(row)
                for row in islice(
                    csv.reader(io.StringIO(text, newline=""), delimiter=sign), SAMPLED
                )
                if row
            }
        return {1}

    header = text.lstrip("\r\n").split("\n", 1)[0]
    if usual in header:
        return usual
    return next(
        (
            sign
            for sign in DELIMITERS
            if sign in header and len(found := widths(sign)) == 1 and found != {1}
        ),
        usual,
    )


def _has_decimal_commas(column: Any) -> bool:
    """Whether a text column holds only numbers, some of them with a decimal comma, such as 1,5."""
    if not str(column.type).startswith(("string", "large_string")):
        return False
    values = [v for v in column.to_pylist() if v is not None and v not in MISSING]
    return any("," in v for v in values) and all(DECIMAL_COMMA.fullmatch(v) for v in values)


def _counts_rows(column: Any) -> bool:
    values = column.to_pylist()
    return values in (list(range(len(values))), list(range(1, len(values) + 1)))


def is_headless(text: str, delimiter: str) -> bool:
    """Whether the first line of a table is a row rather than the column names.

    A first line without numbers holds column names. A first line with numbers holds column names
    only if the numbers are increasing integers, and one of these cases applies:

    - all cells are numbers, at least three, and equally spaced (0, 1, 2, ...);
    - three or more numbers have words beside them (region, 2010, 2015, 2019);
    - one or two numbers have words beside them, and are years;
    - words are beside the numbers, and the second line has its numbers in other columns.

    Examples
    --------
    >>> [is_headless(line, ",") for line in ("a,inf,label", "region,2010,2015,2019", "0,1,2")]
    [False, False, False]
    >>> is_headless("5.1,3.5,setosa", ","), is_headless("cat,3\\ndog,4", ",")
    (True, True)
    """
    first, second, *_ = (_cells(line, delimiter) for line in [*text.split("\n", 2), ""][:2])
    numbers = [n for n in first if n is not None]
    steps = {b - a for a, b in pairwise(numbers)}
    if not numbers or not all(n.is_integer() for n in numbers) or min(steps, default=1) <= 0:
        return bool(numbers)
    if len(numbers) == len(first):
        return len(numbers) < 3 or len(steps) > 1
    alike = [n is None for n in first] == [n is None for n in second]
    return alike and len(numbers) < 3 and not all(n in YEARS for n in numbers)


def _cells(line: str, delimiter: str) -> list[float | None]:
    """The numbers in the cells of a line, and None for each word."""
    cells: list[float | None] = []
    for word in (w.strip().strip('"') for w in line.split(delimiter)):
        try:
            number = float(word.replace(",", ".")) if delimiter != "," else float(word)
        except ValueError:
            number = math.nan
        cells.append(number if math.isfinite(number) else None)  # "inf" and "nan" are words
    return cells


def used_rows(table: Any) -> NDArray[np.bool_]:
    """Return a mask of the rows whose "split" names training, validation or test data.

    If no row has such a name, the mask selects all rows.
    """
    named = _rows_of(table, HELD_OUT | TRAINING)
    return named if named.any() else np.ones(table.num_rows, np.bool_)


def held_out_rows(table: Any) -> NDArray[np.bool_] | None:
    """Return a mask of the rows whose "split" is a usual name of test or validation data.

    The result is None if no row, only one row, or every row has such a name.
    """
    marked = _rows_of(table, HELD_OUT)
    return marked if 1 < marked.sum() < len(marked) else None


def _rows_of(table: Any, splits: frozenset[str]) -> NDArray[np.bool_]:
    """Return a mask of the rows whose "split" is one of `splits`, in upper or lower case."""
    if "split" not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    return np.array([str(s).strip().lower() in splits for s in table["split"].to_pylist()])
