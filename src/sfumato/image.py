"""Conversion between picture files, PIL pictures and tensors (B, C, H, W) in [-1, 1].

This module converts the pixel range: 0 to 255 in files, [-1, 1] in tensors. Reading is defensive:
an unknown file may be a decompression bomb, truncated, rotated by an EXIF tag or of an unusual
mode.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from sfumato.errors import ModelError, OptionError, PictureError

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue: ITU-R BT.601, section 2.5.1
MAX_PIXELS = 178_000_000  # slightly below Pillow's own limit
SUFFIXES = {*".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .tga .ico".split()}
# camera raw files: many have a small preview, which must not be taken for the photo
RAW = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"})
# photos that cannot be read; in a folder of pictures, they are listed as left out
UNSUPPORTED = RAW | {".heic", ".heif", ".jxl", ".psd"}
ENDINGS = SUFFIXES | UNSUPPORTED | {".pdf", ".svg"}  # of files; other output paths are folders
# width and height of a letter in a caption, in pixels; maximum number of lines
LETTER, CAPTION_LINES = (5, 12), 3
WHITE = 128  # smallest mask value (0 to 255) that counts as white
JPEG_TOUCHES = "JPEG also changes the other pixels a little; a .png keeps them bit for bit"
# errors besides OSError that Pillow raises for damaged tags, tables or offsets
DAMAGED = (
    TypeError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    ZeroDivisionError,
    SyntaxError,
    struct.error,
)

T = TypeVar("T")


def read(source: Path | str | bytes) -> Image.Image:
    """Read the first frame of a picture as sRGB.

    The color profile and the EXIF orientation are applied, and transparent parts are composited
    onto white.

    Parameters
    ----------
    source : path or bytes

    Raises
    ------
    PictureError
        If the file is missing, not a picture, truncated, or larger than 178 megapixels.
    """
    return opened(source, lambda picture: _to_rgb(upright(picture)))


def read_stored(source: Path | str | bytes) -> tuple[Image.Image, bytes | None]:
    """Read a picture as RGB or RGBA; RGB values and transparency are kept as stored.

    The second result is the color profile of these values; None for sRGB.
    """

    def stored(picture: Image.Image) -> tuple[Image.Image, bytes | None]:
        profile = picture.info.get("icc_profile")
        if (
            picture.mode in ("RGB", "RGBA", "P")
            and profile is not None
            and _transform(profile, "RGB") is not None
        ):
            if picture.has_transparency_data:
                return upright(picture).convert("RGBA"), profile
            return _to_rgb(upright(picture), managed=False), profile
        if picture.has_transparency_data:
            return upright(picture).convert("RGBA"), None
        return _to_rgb(upright(picture)), None

    return opened(source, stored)


def read_mask(source: Path | str | bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """Read a picture of any mode as a mask in mode L; transparent parts become black.

    Raises
    ------
    PictureError
        As :func:`read`.
    OptionError
        If its (width, height) differs from `size`.
    """
    mask = opened(
        source, lambda picture: _to_rgb(upright(picture), "black", managed=False).convert("L")
    )
    if size not in (None, mask.size):
        raise OptionError(
            f"the mask has {mask.width}x{mask.height} pixels, the picture {size[0]}x{size[1]}: "
            "they must agree"
        )
    return mask


def white(mask: Image.Image) -> NDArray[np.bool_]:
    """Return a boolean array (H, W): True where a mask is white, that is, at least 128."""
    return np.asarray(mask) >= WHITE


def nothing_white(mask: str | bytes) -> str:
    """Return the error message for a mask (a path, or the bytes of a file) without white pixels."""
    name = mask if isinstance(mask, str) else "the mask"
    return f"{name} has no white pixels: paint the parts to be inpainted white"


@functools.cache
def formats() -> tuple[str, ...]:
    """List the formats that Pillow reads, except PostScript.

    Pillow would pass a PostScript file to Ghostscript, even if its name has another suffix.
    """
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def upright(picture: Image.Image) -> Image.Image:
    """Apply a picture's EXIF orientation; without readable EXIF data, return it as stored."""
    try:
        return ImageOps.exif_transpose(picture)
    except (AttributeError, *DAMAGED):
        picture.load()  # raises the error if the picture itself is damaged
        return picture


def opened(source: Path | str | bytes, use: Callable[[Image.Image], T]) -> T:
    """Open a picture file, call `use` with the open picture and return the result.

    Any problem with the file raises an error with a message of one sentence.

    Raises
    ------
    PictureError
    """
    if isinstance(source, bytes):
        name, wrong, suffix = "the picture", "the picture cannot be read", ""
    else:
        name, suffix = str(source), Path(source).suffix.lower()
        wrong = f"{name} cannot be read as a picture"
        if suffix in RAW and Path(source).is_file():
            raise PictureError(f"{wrong}: {unsupported(suffix)}")
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures and odd tags: the size is checked below
            warnings.simplefilter("ignore")
            with Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()
            ) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise PictureError(
                        f"{name} has {picture.width}x{picture.height} pixels; at most "
                        f"{MAX_PIXELS:,} are read"
                    )
                return use(picture)
    except FileNotFoundError:
        raise PictureError(f"{name} does not exist") from None
    except (OSError, EOFError, Image.DecompressionBombError, *DAMAGED) as error:
        why = str(error)
        if isinstance(error, UnidentifiedImageError):
            why = unsupported(suffix) if suffix in UNSUPPORTED else "its format is not known"
        raise PictureError(f"{wrong}: {why}") from None


def unsupported(suffix: str) -> str:
    """Return the error message for a kind of picture that is known, but cannot be read."""
    return f"{suffix} files are not supported; convert them to TIFF, PNG or JPEG"


@contextlib.contextmanager
def unbounded() -> Iterator[None]:
    """Let Pillow open files of any size within the block: for files that this package wrote."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def as_uint8(values: NDArray[Any]) -> NDArray[Any]:
    """Convert booleans, and floats in [0, 1], to uint8 (0 to 255); leave other values unchanged.

    Examples
    --------
    >>> as_uint8(np.array([[True, False]])), as_uint8(np.array([[0.5, 1.0]]))
    (array([[255,   0]], dtype=uint8), array([[128, 255]], dtype=uint8))
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    in_unit = values.dtype.kind == "f" and values.size and 0 <= values.min() <= values.max() <= 1
    return (values * 255).round().astype(np.uint8) if in_unit else values


def eight_bits(mode: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values of mode F, I or I;16 to 0 to 255; NaN becomes black, and infinity white."""
    numbers = values.astype(np.float64)
    top = brightest(mode, np.where(np.isfinite(numbers), numbers, 0))
    out: NDArray[np.uint8] = (
        (np.nan_to_num(numbers).clip(0, top) * (255 / top)).round().astype(np.uint8)
    )
    return out


def brightest(mode: str, values: NDArray[np.float64]) -> float:
    """Return the value that counts as white.

    For mode F, it is 1 if all values are at most 2 (sharpening can produce values slightly above
    1), 255 if all values are at most 255, and otherwise the maximum. For mode I, it is 255 if all
    values are at most 255, 65535 if all are at most 65535, and otherwise the maximum. For 16-bit
    modes, it is 65535.
    """
    largest = float(values.max(initial=0))
    if mode == "F":
        return 1.0 if largest <= 2 else max(255.0, largest)
    return 255.0 if mode == "I" and largest <= 255 else max(largest, 65535.0)


def _transform(
    profile: bytes, mode: str, *, back: bool = False
) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a color profile to sRGB, or back.

    The result is None if the profile is sRGB, is damaged or has another mode.
    """
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(found).lower():
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        ends = ((srgb, found), ("RGB", mode)) if back else ((found, srgb), (mode, "RGB"))
        return ImageCms.buildTransform(*ends[0], *ends[1])
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def from_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert an sRGB picture to another RGB profile."""
    transform = _transform(profile, "RGB", back=True)
    return picture if transform is None else transform.apply(picture)


def to_srgb(picture: Image.Image) -> Image.Image:
    """Convert a picture (L, RGB or CMYK) with another color profile to sRGB; return others."""
    profile = picture.info.get("icc_profile")
    transform = (
        _transform(profile, picture.mode)
        if profile and picture.mode in ("L", "RGB", "CMYK")
        else None
    )
    return picture if transform is None else transform.apply(picture)


def _to_rgb(picture: Image.Image, ground: str = "white", *, managed: bool = True) -> Image.Image:
    # 16 bits per channel, which PIL's own conversion would clip
    if picture.mode in ("I", "I;16", "I;16B", "F"):
        picture = Image.fromarray(eight_bits(picture.mode, np.asarray(picture)))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        if managed:
            color = to_srgb(clear.convert("RGB"))
            color.putalpha(clear.getchannel("A"))
            clear = color
        return Image.alpha_composite(Image.new("RGBA", clear.size, ground), clear).convert("RGB")
    if not managed:
        return picture.convert("RGB")
    if picture.mode in ("L", "CMYK"):
        picture = to_srgb(picture)
    return to_srgb(picture.convert("RGB"))


def flattened(picture: Image.Image) -> Image.Image:
    """Composite a transparent picture onto white and convert it to RGB.

    A picture of mode RGB is returned unchanged.
    """
    return picture if picture.mode == "RGB" else _to_rgb(picture, managed=False)


def crop_to(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop the largest centered part with the right aspect ratio and resize it to `size`."""
    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def to_tensor(pictures: Image.Image | Iterable[Image.Image]) -> Tensor:
    """Convert RGB or gray pictures of one size to a tensor (B, C, H, W) in [-1, 1].

    Examples
    --------
    >>> to_tensor(Image.new("RGB", (4, 2), "white")).shape
    torch.Size([1, 3, 2, 4])
    """
    many = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    arrays = [np.asarray(p).reshape(p.height, p.width, -1) for p in many]
    return from_bytes(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))


def from_bytes(values: Tensor) -> Tensor:
    """Convert values 0 to 255, of any shape, to float32 in [-1, 1]."""
    return values.float() / 127.5 - 1


def check_finite(x: Tensor) -> Tensor:
    """Return `x`, or raise an error if a value is NaN or infinite.

    Raises
    ------
    ModelError
    """
    if not x.isfinite().all():
        raise ModelError(
            "the network's output is not finite and gives no picture; the weights may be damaged, "
            "or float16 may be too narrow for the values"
        )
    return x


def to_bytes(x: Tensor) -> Tensor:
    """Convert values in [-1, 1] to uint8 by rounding to the nearest integer; clip values outside.

    Raises
    ------
    ModelError
        If a value is not finite.
    """
    check_finite(x)
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pictures(x: Tensor) -> list[Image.Image]:
    """Convert a tensor (B, 3 or 1, H, W) in [-1, 1] to pictures.

    Examples
    --------
    >>> to_pictures(torch.ones(2, 3, 4, 4))[1].getpixel((0, 0))
    (255, 255, 255)
    """
    arrays = to_bytes(x).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]


def sheet(
    pictures: list[Image.Image],
    columns: int | None = None,
    gap: int = 2,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Arrange pictures in a grid on white, with optional captions below them.

    All cells have the largest width and the largest height of the pictures.

    Without `columns`, the grid has about as many columns as rows.
    """
    columns = columns or max(1, round(len(pictures) ** 0.5 + 0.49))
    rows = -(-len(pictures) // columns)
    width, height = (max(p.size[axis] for p in pictures) for axis in (0, 1))
    texts = [
        "\n".join(textwrap.wrap(caption, max(4, width // LETTER[0]))[:CAPTION_LINES])
        for caption in captions
    ]
    room = LETTER[1] * max((text.count("\n") + 1 for text in texts), default=0)
    out = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + room + gap) + gap), "white"
    )
    pen = ImageDraw.Draw(out)
    for k, picture in enumerate(pictures):
        left, top = gap + k % columns * (width + gap), gap + k // columns * (height + room + gap)
        out.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
        if k < len(texts):
            pen.multiline_text(
                (left, top + height),
                texts[k],
                fill="black",
                font=ImageFont.load_default(10),
                spacing=1,
            )
    return out
