"""Read and write the metadata of a photo's file: EXIF, XMP, texts, resolution, JPEG quality."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from sfumato.data.text import decode
from sfumato.metadata import DESCRIPTION, EXIF_POINTER

SEGMENT = 65_000  # bytes of EXIF data, XMP or comment that certainly fit into a JPEG
GPS_POINTER = 0x8825  # tag of the place where a photo was taken
ORIENTATION, PIXEL_WIDTH, PIXEL_HEIGHT = 0x0112, 0xA002, 0xA003  # EXIF 2.32, tables 4 and 7
XMP_KEYWORD, SETTINGS = "XML:com.adobe.xmp", "sfumato"  # keywords of PNG text chunks
# title, maker, model, software, date, artist, copyright
DESCRIPTIVE = frozenset({0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298})


def descriptions(opened: Image.Image) -> tuple[bytes | None, list[str]]:
    """Return the EXIF data without the orientation, and a note if they are damaged."""
    exif = opened.getexif()
    turned = exif.pop(ORIENTATION, None)
    try:
        return _packed(exif, opened.format)
    finally:
        if turned is not None:  # the picture may be the caller's
            exif[ORIENTATION] = turned


def _packed(exif: Image.Exif, kind: str | None) -> tuple[bytes | None, list[str]]:
    if str(exif.get(DESCRIPTION, "")).startswith('{"schema"'):
        return None, []  # settings of create: they would not describe a changed picture
    try:
        if kind == "TIFF":
            exif = _descriptive(exif)
        return (exif.tobytes(), []) if exif else (None, [])
    except Exception:  # a file may hold anything
        return None, ["its EXIF data are damaged and were left out"]


def _descriptive(exif: Image.Exif) -> Image.Exif:
    """Keep only tags that describe the picture: most tags of a TIFF describe its storage."""
    kept = Image.Exif()
    kept.update({tag: value for tag, value in exif.items() if tag in DESCRIPTIVE})
    for pointer in (EXIF_POINTER, GPS_POINTER):
        if found := exif.get_ifd(pointer):
            kept.get_ifd(pointer).update(found)
            kept[pointer] = 0  # the writer of the data sets the place
    return kept


def for_tiff(exif: bytes) -> Image.Exif | None:
    """Return the EXIF tags that describe a photo, for a TIFF file.

    Tags that describe the pixels are left out, because the writer of the TIFF file sets them. The
    result is None if a TIFF file cannot hold the tags.
    """
    held = Image.Exif()
    try:
        held.load(exif)
        held = _descriptive(held)
        Image.new("L", (1, 1)).save(io.BytesIO(), "TIFF", exif=held)
    except Exception:  # a file may hold anything
        return None
    return held


def texts_of(opened: Image.Image) -> dict[str, str]:
    """Return the texts of a PNG and the comment of a JPEG.

    XMP is left out, and so are sfumato's own settings, which would not describe a changed picture.
    """
    found = {
        k: str(v)
        for k, v in getattr(opened, "text", {}).items()
        if k not in (XMP_KEYWORD, SETTINGS)
    }
    comment = opened.info.get("comment")
    if comment and "Comment" not in found:
        found["Comment"] = decode(comment)[0] if isinstance(comment, bytes) else str(comment)
    return found


def xmp_of(opened: Image.Image) -> bytes | None:
    """Return the XMP packet with the orientation set to upright, as pictures are rotated when
    read.
    """
    found = opened.info.get("xmp") or opened.info.get(XMP_KEYWORD)
    if not isinstance(found, bytes | str):
        return None
    packet = found.encode() if isinstance(found, str) else found
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", packet)


def with_size(exif: bytes, size: tuple[int, int]) -> bytes:
    """Replace the width and height in EXIF data, if the data hold any."""
    held = Image.Exif()
    held.load(exif)
    if EXIF_POINTER not in held:
        return exif
    sizes = held.get_ifd(EXIF_POINTER)
    for tag, value in zip((PIXEL_WIDTH, PIXEL_HEIGHT), size, strict=True):
        if tag in sizes:
            sizes[tag] = value
    return held.tobytes()


def resolution(opened: Image.Image) -> tuple[float, float] | None:
    """Return the pixels per inch, horizontally and vertically, or None."""
    try:
        across, down = (float(n) for n in opened.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 65536 and 0 < down < 65536 else None


def jpeg_quality(table: list[int]) -> int:
    """Return the JPEG quality, 1 to 100, whose quantization table is nearest to `table`."""
    return 1 + int(np.abs(_tables() - np.asarray(table)).sum(axis=1).argmin())


@functools.cache
def _tables() -> NDArray[Any]:
    """The luminance tables of all qualities from 1 to 100, (100, 64)."""
    out = []
    for quality in range(1, 101):
        stream = io.BytesIO()
        Image.new("L", (8, 8)).save(stream, "JPEG", quality=quality)
        with Image.open(stream) as written:
            assert isinstance(written, JpegImageFile)
            out.append(written.quantization[0])
    return np.array(out)


def text_arguments(
    given: Mapping[str, str], xmp: bytes | None, kind: str, settings: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Pillow's arguments for texts, XMP and settings; and notes on what the format cannot hold.

    `kind` is Pillow's name of the format.
    """
    extra: dict[str, Any] = {}
    texts = dict(given)
    if kind == "PNG":
        info = extra["pnginfo"] = PngImagePlugin.PngInfo()
        for keyword, text in texts.items():
            info.add_itxt(keyword, text)
        if xmp:
            info.add_itxt(XMP_KEYWORD, xmp.decode("utf-8", "replace"))
        if settings is not None:
            info.add_itxt(SETTINGS, settings)
        return extra, []
    notes = []
    if kind == "JPEG" and "Comment" in texts:
        comment = texts.pop("Comment").encode()
        extra["comment"] = comment[:SEGMENT]
        notes += [f"the comment was cut to {SEGMENT:,} bytes"] if len(comment) > SEGMENT else []
    if xmp and (kind == "WEBP" or (kind == "JPEG" and len(xmp) <= SEGMENT)):
        extra["xmp"] = xmp
    lost = [*texts, *(["XMP"] if xmp and "xmp" not in extra else [])]
    return extra, notes + ([f"{kind} cannot store the texts {', '.join(lost)}"] if lost else [])
