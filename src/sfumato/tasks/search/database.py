"""The embedded database of an index (LanceDB): open it, find the nearest rows, report errors."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import DataError, ModelError, OptionError, SfumatoError

TABLE = "items"
MANY = 1000  # items, at most, whose names are checked for the words of a query


@contextlib.contextmanager
def writing(folder: Path, *, new: bool) -> Iterator[None]:
    """Turn errors of the database into a :class:`DataError` of one sentence.

    After an error, the folder is removed if `new` is true and it holds no items.
    """
    try:
        yield
    except SfumatoError:
        raise
    except Exception as error:  # from lance, pyarrow or the system
        why = str(error).strip().split("\n")[0]
        if new and not _holds_items(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{folder} cannot be read or written: {why[:300]}") from None


def _holds_items(folder: Path) -> bool:
    """Whether an index has items that can be read."""
    try:
        return bool(open_table(folder).count_rows())
    except Exception:
        return False


def open_table(folder: Path, codes: int | None = None) -> Any:
    """Open the table of an index, or create it for codes of the length `codes`."""
    try:
        import lancedb
        import pyarrow as pa
    except ImportError:
        raise OptionError(
            'search needs an embedded database: pip install "sfumato[search]"'
        ) from None
    logging.getLogger("lance").setLevel(logging.ERROR)
    database = lancedb.connect(folder / "database")
    try:
        return database.open_table(TABLE)
    except Exception as error:
        if codes is None:
            raise ModelError(f"{folder} contains no readable items: {error}") from None
    fields = [(n, pa.string()) for n in ("name", "stamp", "label", "text")] + [
        ("vector", pa.list_(pa.float32(), codes))
    ]
    return database.create_table(TABLE, schema=pa.schema(fields), exist_ok=True)


def nearest(
    table: Any, code: NDArray[np.float32], k: int, where: str | None = None, *, exact: bool = True
) -> list[dict[str, Any]]:
    """The rows of a table whose codes are nearest to `code` by cosine."""
    asked = table.search(code, vector_column_name="vector").distance_type("cosine").limit(k)
    asked = asked.bypass_vector_index() if exact else asked
    rows: list[dict[str, Any]] = (asked.where(where, prefilter=True) if where else asked).to_list()
    return rows


def named(
    table: Any, code: NDArray[np.float32], query: str, k: int, where: str | None
) -> list[dict[str, Any]]:
    """The `k` rows nearest to a code, among rows with each query word in the name or the label.

    A word matches in the singular and in the plural.
    """
    words = [word.removesuffix("s") for word in re.findall(r"\w+", query.lower())]
    if not words:
        return []
    likely = [f"(lower(name) LIKE '%{word}%' OR lower(label) LIKE '%{word}%')" for word in words]
    rows = nearest(table, code, MANY, " AND ".join([*likely, *([f"({where})"] if where else [])]))

    def has_all(row: dict[str, Any]) -> bool:
        held = {
            word.removesuffix("s")
            for word in re.split(r"[\W_]+", f"{row['name']} {row['label']}".lower())
        }
        return held.issuperset(words)

    return [row for row in rows if has_all(row)][:k]


def quoted(name: str) -> str:
    """Quote a name as an SQL string."""
    return "'" + name.replace("'", "''") + "'"
