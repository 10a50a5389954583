"""Read idx files, and convert arrays of labels and values."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import DataError

# training arrays and their test arrays in the .npz files of Keras and of MedMNIST
TEST_ARRAYS = {
    "x_train": "x_test",
    "y_train": "y_test",
    "train_images": "test_images",
    "train_labels": "test_labels",
}


def classes(labels: NDArray[Any]) -> NDArray[Any]:
    """Return one label per row; a one-hot row becomes the index of its nonzero entry."""
    one_hot = (
        labels.ndim == 2
        and labels.shape[1] > 1
        and labels.dtype.kind in "fiub"
        and bool(((labels != 0).sum(axis=1) == 1).all())
    )
    return labels.argmax(axis=1) if one_hot else labels


def to_unit(values: NDArray[np.float32], top: float | None) -> NDArray[np.float32]:
    """Scale brightness to [0, 1].

    The range from `low` to `high` is scaled. `low` is 0, or the minimum if there are negative
    values. `high` is `top`, or by default the maximum of the values, but at least 1.
    """
    finite = values[np.isfinite(values)]
    low = min(0.0, float(finite.min(initial=0)))
    high = top or max(1.0, float(finite.max(initial=0)))
    out: NDArray[np.float32] = (values - np.float32(low)) / np.float32(high - low)
    return out


def to_float(values: NDArray[Any], path: Path, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Convert numbers to a floating-point dtype; raise DataError for other types."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"{path} holds values of type {values.dtype}, not numbers")
    return values.astype(dtype)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes, such as MNIST's, with or without gzip."""
    try:
        raw = (
            gzip.decompress(path.read_bytes())
            if path.suffix.lower() == ".gz"
            else path.read_bytes()
        )
        if raw[:3] != b"\0\0\x08":
            raise ValueError("it does not start with the header of an idx file of bytes")
        shape = np.frombuffer(raw, ">i4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an idx file: {error}") from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a ``.npz`` file by name; the array of a ``.npy`` file is "data"."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if hasattr(loaded, "files"):
                return {name: loaded[name] for name in loaded.files}
            return {"data": loaded}
    except Exception as error:  # numpy passes on the errors of its parser, zip and zlib
        raise DataError(f"{path} cannot be read: {error}") from None


def join_test_arrays(
    arrays: dict[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
    """Append each test array to its training array, if both have names of `TEST_ARRAYS`.

    For example, ``x_test`` is appended to ``x_train``. The shapes of the rows must be equal.

    Returns
    -------
    arrays : dict
    test : array of bool, (N,), optional
        Which rows of the joined arrays are test rows; None if no arrays are joined.

    Examples
    --------
    >>> join_test_arrays({"x_train": np.zeros((2, 3)), "x_test": np.ones((1, 3))})[1]
    array([False, False,  True])
    """
    joined, test = dict(arrays), None
    for train_name, test_name in TEST_ARRAYS.items():
        parts = [joined[name] for name in (train_name, test_name) if name in joined]
        if len(parts) == 2 and parts[0].shape[1:] == parts[1].shape[1:]:
            joined[train_name] = np.concatenate(parts)
            del joined[test_name]
            test = np.repeat([False, True], [len(part) for part in parts])
    return joined, test


def channels_last(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Convert pictures (N, H, W) or (N, C, H, W) to (N, H, W, C)."""
    if values.ndim == 3:
        values = values[..., None]
    if values.shape[-1] in (1, 3, 4):
        return values
    if values.shape[1] not in (1, 3, 4):
        raise DataError(
            f"{path} holds pictures of shape {values.shape[1:]}; 1, 3 or 4 channels are "
            "needed, as the last or first dimension"
        )
    return np.moveaxis(values, 1, -1)
