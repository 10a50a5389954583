"""Measure a client's file of data after decompression, before the worker reads it."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, OptionError

UNPACKED = 512 * 2**20  # largest number of bytes
READ = UNPACKED // 4  # largest number of bytes that are read at once


def check_unpacked(path: Path) -> None:
    """Refuse a small file that becomes very large when it is decompressed.

    Raises
    ------
    DataError
        If the file is damaged.
    OptionError
        If it is too large.
    """
    try:
        size = _unpacked(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"the data cannot be read: {error}") from None
    if size > UNPACKED:
        raise OptionError(
            f"the data are too large: the server takes up to {UNPACKED // 2**20} MB, decompressed"
        )


def _unpacked(path: Path) -> int:
    """Bytes of a file of data after decompression, counted up to about `UNPACKED`."""
    if path.suffix in (".zip", ".npz"):
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    if path.suffix == ".gz":
        size = 0
        with gzip.open(path) as stream:
            while size <= UNPACKED and (part := stream.read(2**20)):
                size += len(part)
        return size
    if path.suffix == ".parquet":
        return _unpacked_table(path)
    return path.stat().st_size


def _unpacked_table(path: Path) -> int:
    try:
        from pyarrow import parquet  # an optional package
    except ImportError:
        return 0  # reading the table tells what to install
    with parquet.ParquetFile(path) as file:
        size, texts, largest = _declared(file)
    if size > UNPACKED:
        return size
    rows = min(64, max(1, READ // max(1, largest)))
    size = 0
    # a dictionary keeps a repeated value once, as in the file: reading it takes little memory
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(rows):
            size += sum(_bytes_of(column) for column in batch.columns)
            if size > UNPACKED:
                break
    return size


def _declared(file: Any) -> tuple[int, list[str], int]:
    """Read from a Parquet file's metadata how large its content is at least.

    Returns
    -------
    size : int
        Bytes of all columns. A number in a list counts with 8 bytes, because one row can hold any
        number of them.
    texts : list of str
        Columns of texts or bytes that can be read as dictionaries: pyarrow reads no nested ones.
    largest : int
        Bytes of the largest chunk of a nested column of bytes: no value is larger.
    """
    size, largest, texts = 0, 0, []
    for column in range(file.metadata.num_columns):
        described = file.schema.column(column)
        is_bytes, nested = described.physical_type == "BYTE_ARRAY", "." in described.path
        if is_bytes and not nested:
            texts.append(described.path)
        for group in range(file.metadata.num_row_groups):
            chunk = file.metadata.row_group(group).column(column)
            listed = 8 * chunk.num_values if described.max_repetition_level else 0
            size += max(chunk.total_uncompressed_size, listed)
            if is_bytes and nested:
                largest = max(largest, chunk.total_uncompressed_size)
    return size, texts, largest


def _bytes_of(column: Any) -> int:
    """Bytes of a column if each repeated value is counted as often as it occurs."""
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        lengths = compute.binary_length(column.dictionary)
        return int(compute.sum(lengths.take(column.indices)).as_py() or 0) + int(
            column.indices.nbytes
        )
    return int(column.nbytes)
