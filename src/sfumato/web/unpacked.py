"""Measure a client's file of data after decompression, before the worker reads it."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

from sfumato.errors import DataError, OptionError

UNPACKED = 512 * 2**20  # largest number of bytes


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
    size = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(64):  # repeated values take hardly any space in the file
            size += batch.nbytes
            if size > UNPACKED:
                break
    return size
