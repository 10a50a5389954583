"""Read and write photographs without losing the data that their files hold besides the pixels.

A :class:`Photo` keeps transparency, the color profile, metadata and 16 bits per channel, so that a
restored picture differs from its file only where the user asked for a change. A part that cannot be
kept is converted, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy.ndimage import distance_transform_edt

from sfumato import image
from sfumato.data.exif import (
    ORIENTATION,
    SEGMENT,
    descriptions,
    for_tiff,
    jpeg_quality,
    resolution,
    text_arguments,
    texts_of,
    with_size,
    xmp_of,
)
from sfumato.errors import PictureError
from sfumato.runtime import atomic

# pictures for which these formats have only 8 bits per channel
DEEP = {"PNG": "PNG in color or with transparency", "TIFF": "TIFF in color or with transparency"}
SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N", "I")
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # longest side that a format can hold, in pixels
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture and the metadata of its file.

    Attributes
    ----------
    values : array, (H, W, 1 or 3), uint8 or uint16
        Gray or RGB values in the color space of the file, upright. Other kinds of pixels are
        converted, and `notes` says so.
    alpha : array, (H, W), uint8, optional
        Alpha channel: 0 is fully transparent, 255 is opaque.
    profile : bytes, optional
        ICC color profile.
    quality : int, optional
        JPEG quality, 1 to 100; None for other formats.
    exif : bytes, optional
        EXIF data (date, place, camera and more) without the orientation, which is already applied
        to the values.
    dpi : (float, float), optional
        Pixels per inch, across and down.
    texts : dict of str to str
        Text chunks of a PNG by keyword; the comment of a JPEG has the keyword "Comment".
    xmp : bytes, optional
        XMP packet; its orientation is set to upright, as the values are turned already.
    notes : tuple of str
        One sentence for each part that was converted or left out on reading.
    """

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    profile: bytes | None = None
    quality: int | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    xmp: bytes | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if (
            values.dtype not in (np.uint8, np.uint16)
            or values.ndim != 3
            or values.shape[2] not in (1, 3)
            or not values.size
        ):
            raise PictureError(
                f"a photo is an array (H, W, 1 or 3) of uint8 or uint16; {values.shape} of "
                f"{values.dtype} was given"
            )

    @property
    def top(self) -> int:
        """The value of white: 255 or 65535."""
        return 65535 if self.values.dtype == np.uint16 else 255

    @property
    def gray(self) -> bool:
        """Whether the picture is gray, even if it is stored as RGB."""
        red, *others = np.moveaxis(self.values, 2, 0)
        return all(np.array_equal(red, other) for other in others)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.values.shape[1]), int(self.values.shape[0])

    def frame(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[np.float32]:
        """Return the values of a window as (C, H, W), scaled to [-1, 1]."""
        return (
            np.ascontiguousarray(self.values[rows, columns].transpose(2, 0, 1), np.float32)
            * np.float32(2 / self.top)
            - 1
        )

    def opaque(self) -> Photo:
        """Return the photo with fully transparent pixels in the color of the nearest visible pixel.

        The stored color of a fully transparent pixel is never visible, so it may be arbitrary.
        """
        if self.alpha is None or self.alpha.all() or not self.alpha.any():
            return self
        nearest = distance_transform_edt(
            self.alpha == 0, return_distances=False, return_indices=True
        )
        return replace(self, values=self.values[tuple(nearest)])

    def stored(self, x: NDArray[Any]) -> NDArray[Any]:
        """Convert values (C, H, W) in [-1, 1] to this photo's dtype and range, (H, W, C)."""
        image.check_finite(torch.from_numpy(x))
        scaled = (x.transpose(1, 2, 0).astype(np.float64) + 1) * (self.top / 2)
        return scaled.round().clip(0, self.top).astype(self.values.dtype)

    def with_values(self, values: NDArray[Any]) -> Photo:
        """Return the photo with other values, (H, W, 1 or 3).

        Transparency is resized to fit. The color profile is dropped if the number of channels
        changes.
        """
        alpha, size = self.alpha, (values.shape[1], values.shape[0])
        if alpha is not None and alpha.shape != values.shape[:2]:
            alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
        same = values.shape[2] == self.values.shape[2]
        return replace(self, values=values, alpha=alpha, profile=self.profile if same else None)


def read(source: Path | str | bytes) -> Photo:
    """Read a picture file.

    Raises
    ------
    PictureError
        If the file is missing, truncated, not a picture, or larger than 178 megapixels.
    """
    return image.opened(source, _photo)


def photo_of(given: Photo | Image.Image | NDArray[Any] | Path | str | bytes) -> Photo:
    """Return a photo from a file, a Pillow picture, or an array.

    Parameters
    ----------
    given : Photo, Image, array, path or bytes
        An array holds uint8 or uint16 values, booleans, or floats in [0, 1]. Booleans and floats
        are scaled to uint8 (0 to 255). Its shape is (H, W) or (H, W, C) with 1, 3 or 4 channels;
        the fourth is the opacity. Bytes are the content of a file.

    Raises
    ------
    PictureError
        If the file cannot be read, or the array has another shape or dtype.

    Examples
    --------
    >>> photo_of(np.zeros((4, 6, 4), np.uint8)).alpha.shape
    (4, 6)
    """
    if isinstance(given, Photo):
        return given
    if isinstance(given, Image.Image):
        try:
            return _photo(given)
        except (OSError, EOFError, *image.DAMAGED) as error:  # its file may be read only now
            raise PictureError(f"the picture cannot be read: {error}") from None
    if isinstance(given, np.ndarray):
        given = image.as_uint8(given)
        values = given[..., None] if given.ndim == 2 else given
        if values.ndim == 3 and values.shape[2] == 4 and values.dtype in (np.uint8, np.uint16):
            opacity = values[..., 3] if values.dtype == np.uint8 else values[..., 3] // 257
            return Photo(values[..., :3], opacity.astype(np.uint8))
        return Photo(values)
    if isinstance(given, str | Path | bytes):
        return read(given)
    raise PictureError(
        f"a photo is a path, the bytes of a file, a Pillow picture or an array; "
        f"{type(given).__name__} was given"
    )


def _photo(opened: Image.Image) -> Photo:
    quality = (
        jpeg_quality(next(iter(opened.quantization.values())))
        if isinstance(opened, JpegImageFile) and opened.quantization
        else None
    )
    # the tile says how the file stores a pixel; it is read before load()
    deep = ";16" in str(getattr(opened, "tile", ""))
    opened.load()
    converted = _converted(opened)
    exif, notes = descriptions(opened)
    texts, xmp = texts_of(opened), xmp_of(opened)
    photo = replace(
        converted,
        quality=quality,
        exif=exif,
        dpi=resolution(opened),
        texts=texts,
        xmp=xmp,
        notes=(*converted.notes, *notes),
    )
    return (
        replace(photo, notes=(*photo.notes, "16 bits per channel were read as 8"))
        if deep and photo.top == 255
        else photo
    )


def _converted(opened: Image.Image) -> Photo:
    notes = []
    frames = int(getattr(opened, "n_frames", 1))
    if frames > 1:
        notes.append(f"only the first of {frames} frames was read")
    profile = opened.info.get("icc_profile")
    turned = opened.getexif().get(ORIENTATION, 1) in range(2, 9)
    picture = image.upright(opened) if turned else opened
    if turned:
        notes.append("rotated upright according to the EXIF orientation")
    if picture.mode in SIXTEEN:
        values, alpha, more = _deep(picture)
        return Photo(values, alpha, profile, notes=(*notes, *more))
    if picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = image.brightest("F", np.where(np.isfinite(values), values, 0))
        notes.append(f"floating-point values of 0 to {top:g} were converted to 8 bits")
        return Photo(image.eight_bits("F", values)[..., None], notes=tuple(notes))
    clear = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    gray = picture.mode in ("L", "LA", "La", "1")
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        before = picture
        picture = image.to_srgb(before) if before.mode == "CMYK" else before
        notes.append(
            f"{before.mode} was converted to "
            + ("RGB" if picture is before else "sRGB with its color profile")
        )
        profile = None  # it describes the former color space
    elif picture.mode in ("P", "PA", "1"):
        notes.append(
            "a palette was converted to RGB"
            if picture.mode != "1"
            else "1 bit per pixel was converted to 8 bits"
        )
    alpha = np.asarray(picture.convert("RGBA").getchannel("A")) if clear else None
    values = np.asarray(
        picture.convert("LA").getchannel(0)
        if gray and clear
        else picture.convert("L" if gray else "RGB")
    )
    return Photo(
        values if values.ndim == 3 else values[..., None], alpha, profile, notes=tuple(notes)
    )


def _deep(picture: Image.Image) -> tuple[NDArray[Any], NDArray[np.uint8] | None, list[str]]:
    """The values of a picture of mode I or I;16, its transparency, and notes."""
    values, notes = np.asarray(picture), []
    if values.min() < 0:
        notes.append("values below 0 were clipped")
    if (largest := int(values.max())) > 65535:
        notes.append(f"values of 0 to {largest} were scaled to 16 bits")
        values = (values.clip(0) * (65535 / largest)).round().astype(np.int32)
    clear = picture.info.get("transparency")  # one value, for a gray PNG
    alpha = np.uint8(255) * (values != clear) if isinstance(clear, int) else None
    return _sixteen(values), alpha, notes


def _sixteen(values: NDArray[Any]) -> NDArray[Any]:
    """Convert to uint16; convert a picture of mode I without values above 255 to uint8."""
    if values.max(initial=0) <= 255 and values.dtype == np.int32:
        return values.clip(0, 255).astype(np.uint8)[..., None]
    return values.clip(0, 65535).astype(np.uint16)[..., None]


def checked_format(path: Path, size: tuple[int, int]) -> str:
    """Return the format that a path's suffix names, if it can hold a picture of this size.

    Raises
    ------
    PictureError
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path}: a picture's name ends in one of {', '.join(sorted(SUFFIXES))}")
    if max(size) > LONGEST.get(kind, max(size)):
        raise PictureError(
            f"{path}: {kind} pictures have at most {LONGEST[kind]:,} pixels per side, this one "
            f"would have {size[0]}x{size[1]}; choose .png or .tif"
        )
    return kind


def write(photo: Photo, path: Path, settings: str | None = None) -> list[str]:
    """Write a photo atomically; return a note on each thing that the format cannot keep.

    Parameters
    ----------
    photo : Photo
    path : Path
        The suffix selects the format: .png, .jpg, .webp, .tif or .bmp. PNG keeps everything, but 16
        bits only for opaque gray pictures. JPEG has quality 95 and no transparency. WebP is
        lossless.
    settings : str, optional
        JSON to store in a PNG under the keyword "sfumato".

    Raises
    ------
    PictureError
        For an unknown suffix, a picture too large for the format, or if the file cannot be
        written.
    """
    kind = checked_format(path, photo.size)
    notes = []
    values, alpha = photo.values, photo.alpha
    if values.dtype == np.uint16 and (
        kind not in ("PNG", "TIFF") or values.shape[2] == 3 or alpha is not None
    ):
        notes.append(f"16 bits per channel were converted to 8 for {DEEP.get(kind, kind)}")
        values = (values.astype(np.float64) / 257).round().astype(np.uint8)
    if alpha is not None and kind in ("JPEG", "BMP"):
        notes.append(f"{kind} has no transparency: transparent parts are white")
        share = alpha[..., None] / 255
        values, alpha = (values * share + 255 * (1 - share)).round().astype(np.uint8), None
    planes = values if alpha is None else np.concatenate([values, alpha[..., None]], axis=2)
    extra: dict[str, Any] = {"icc_profile": photo.profile} if photo.profile else {}
    # WebP stores gray as RGB, for which the profile of a gray picture would be wrong
    if photo.profile and (kind == "BMP" or (kind == "WEBP" and values.shape[2] == 1)):
        extra = {}
        notes.append(f"{kind} cannot store the color profile")
    extra |= {"dpi": photo.dpi} if photo.dpi else {}
    if photo.dpi and kind == "WEBP":
        notes.append(f"{kind} cannot store the resolution")
    if photo.exif and kind != "BMP":
        exif = with_size(photo.exif, photo.size)
        extra["exif"] = for_tiff(exif) if kind == "TIFF" else exif
    too_long = kind == "JPEG" and len(extra.get("exif", b"")) > SEGMENT
    if photo.exif and (too_long or not extra.get("exif")):
        extra.pop("exif", None)
        notes.append(f"{kind} cannot store the EXIF data")
    if kind == "JPEG":
        extra |= {"quality": 95, "subsampling": 0}
    if kind == "WEBP":
        extra |= {"lossless": True, "exact": True}
    try:
        more, lost = text_arguments(photo.texts, photo.xmp, kind, settings)
        extra |= more
        notes += lost
        with atomic(path) as scratch:
            picture = Image.fromarray(planes.squeeze(2) if planes.shape[2] == 1 else planes)
            picture.save(scratch, format=kind, **extra)
            if kind != "JPEG":
                _verify(picture, scratch)
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} cannot be written: {error}") from None
    return notes


def _verify(picture: Image.Image, path: Path) -> None:
    """Read a file back and compare it with the written picture, value by value."""
    with image.unbounded(), Image.open(path) as written:
        written.load()
        same = (
            written
            if written.mode == picture.mode or picture.mode.startswith("I")
            else written.convert(picture.mode)
        )
        if not np.array_equal(np.asarray(same), np.asarray(picture)):
            raise OSError("the values in the file differ from the written values")
