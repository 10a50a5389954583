"""Pictures in memory: arrays of any usual kind, and Pillow pictures as the bytes of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import OptionError


def integers(values: NDArray[Any]) -> NDArray[Any]:
    """Convert truth values, and floats of 0 to 1, to uint8; leave other values as they are.

    Examples
    --------
    >>> integers(np.array([[True, False]])), integers(np.array([[0.5, 1.0]]))
    (array([[255,   0]], dtype=uint8), array([[128, 255]], dtype=uint8))
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    in_unit = values.dtype.kind == "f" and values.size and 0 <= values.min() <= values.max() <= 1
    return (values * 255).round().astype(np.uint8) if in_unit else values


def png_of(given: Any) -> bytes:
    """Encode a Pillow picture or an array as a PNG file.

    An array (H, W) or (H, W, C), with 1, 3 or 4 channels, holds uint8, truth values, or floats of 0
    to 1.

    Raises
    ------
    OptionError
        For anything else.
    """
    stream = io.BytesIO()
    if isinstance(given, Image.Image):
        kept = given if given.mode in ("1", "L", "LA", "RGB", "RGBA") else given.convert("RGBA")
        kept.save(stream, "PNG", icc_profile=given.info.get("icc_profile"))
        return stream.getvalue()
    values = integers(given) if isinstance(given, np.ndarray) else None
    flat = values[..., 0] if values is not None and values.shape[2:] == (1,) else values
    if (
        flat is None
        or flat.dtype != np.uint8
        or not (flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4)))
    ):
        what = type(given).__name__
        if isinstance(given, np.ndarray):
            what += f" {given.shape} of {given.dtype}"
        raise OptionError(
            "a picture is a path, the bytes of a file, a Pillow picture, or an array (H, W) or "
            f"(H, W, 1, 3 or 4) of uint8, truth values or floats of 0 to 1; {what} was given"
        )
    Image.fromarray(flat).save(stream, "PNG")
    return stream.getvalue()
