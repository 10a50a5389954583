"""Pictures in memory as the bytes of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from sfumato.data.photo import photo_of
from sfumato.errors import OptionError, PictureError


def png_of(given: Any) -> bytes:
    """Encode a Pillow picture or an array as a PNG file of 8 bits.

    The picture is read by :func:`sfumato.data.photo.photo_of`, so `given` can also be a path or the
    bytes of a picture file.

    Raises
    ------
    OptionError
        For anything else.
    """
    try:
        photo = photo_of(given)
    except PictureError as error:
        raise OptionError(str(error)) from None
    values = photo.values if photo.top == 255 else (photo.values / 257).round().astype(np.uint8)
    parts = [values] if photo.alpha is None else [values, photo.alpha[..., None]]
    planes = np.concatenate(parts, axis=2)
    stream = io.BytesIO()
    picture = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    picture.save(stream, "PNG", icc_profile=photo.profile)
    return stream.getvalue()
