"""Files and PIL pictures <-> tensors (B, C, H, W) in [-1, 1].

The only place that knows another range. Reading is careful: a picture from a stranger may be a
bomb, cut short, rotated by a tag or of an odd mode.
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

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, section 2.5.1
MAX_PIXELS = 178_000_000  # Pillow refuses what is a little larger
SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".ppm",
        ".tga",
    }
)
# an output so named is meant as a file, not as a folder
ENDINGS = SUFFIXES | {".heic", ".pdf", ".psd", ".svg"}
# width and height of a caption's letters in pixels; lines at most
LETTER, CAPTION_LINES = (5, 12), 3
WHITE = 128  # of 0 to 255, from which on a mask is white
JPEG_TOUCHES = "JPEG changes the other pixels a little, too; written as .png they stay bit for bit"
# what Pillow raises besides OSError, where tags, tables or offsets of a file are damaged
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
    """Read a picture as sRGB: by its color profile, turned as its EXIF tag says, transparent parts
    on white, the first frame.

    Parameters
    ----------
    source : path or bytes

    Raises
    ------
    PictureError
        If it is missing, no picture, cut short, or larger than 178 megapixels.
    """
    return opened(source, lambda picture: _to_rgb(upright(picture)))


def read_stored(source: Path | str | bytes) -> tuple[Image.Image, bytes | None]:
    """The same with its values and transparency as they are stored, RGB or RGBA.

    The second value is the color profile that they are meant in; None for sRGB.
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
    """Read a mask from a picture of any mode: what is white in it, gray (mode L); transparent is
    black.

    Raises
    ------
    PictureError
        As :func:`read`.
    OptionError
        If it has not the (width, height) that it should have.
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
    """Where a mask is white, (H, W)."""
    return np.asarray(mask) >= WHITE


def nothing_white(name: str) -> str:
    """What to say of a mask that asks for nothing."""
    return f"{name} is black everywhere: paint white what is to be inpainted"


@functools.cache
def formats() -> tuple[str, ...]:
    """What Pillow reads by itself; PostScript it would hand to Ghostscript, whatever the file is
    named.
    """
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says; as it is stored, where that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except (AttributeError, *DAMAGED):
        picture.load()  # what is wrong with the picture itself is said by this
        return picture


def opened(source: Path | str | bytes, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of a picture file while it is open; whatever is wrong with the file becomes
    one sentence.

    Raises
    ------
    PictureError
    """
    name = "picture" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs and odd tags: the size is checked below
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
        why = "its format is not known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise PictureError(f"{name} cannot be read as a picture: {why}") from None


@contextlib.contextmanager
def unbounded() -> Iterator[None]:
    """Pillow opens files of any size in this block: for files of our own, which are no bombs."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def eight_bits(mode: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of mode F, I or I;16 brought to 0 to 255; what is no number is black, what is infinite
    white.
    """
    numbers = values.astype(np.float64)
    top = brightest(mode, np.where(np.isfinite(numbers), numbers, 0))
    out: NDArray[np.uint8] = (
        (np.nan_to_num(numbers).clip(0, top) * (255 / top)).round().astype(np.uint8)
    )
    return out


def brightest(mode: str, values: NDArray[np.float64]) -> float:
    """The value of white: of 16 bits; of 8, if that is all that mode I was used for; of numbers, 1
    or the largest.
    """
    largest = float(values.max(initial=0))
    if mode == "F":
        return max(1.0, largest)
    return 255.0 if mode == "I" and largest <= 255 else 65535.0


def _transform(
    profile: bytes, mode: str, *, back: bool = False
) -> ImageCms.ImageCmsTransform | None:
    """From a color profile to sRGB, or back; None for sRGB itself, and for a profile that is
    damaged or of another mode.
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
    """An sRGB picture with its values meant in another profile of red, green and blue."""
    transform = _transform(profile, "RGB", back=True)
    return picture if transform is None else transform.apply(picture)


def _managed(picture: Image.Image) -> Image.Image:
    """A picture of mode L, RGB or CMYK as sRGB, if it has a profile that says otherwise."""
    profile = picture.info.get("icc_profile")
    transform = (
        _transform(profile, picture.mode)
        if profile and picture.mode in ("L", "RGB", "CMYK")
        else None
    )
    return picture if transform is None else transform.apply(picture)


def _to_rgb(picture: Image.Image, ground: str = "white", *, managed: bool = True) -> Image.Image:
    # 16 bits a channel, which PIL's own conversion would clip
    if picture.mode in ("I", "I;16", "I;16B", "F"):
        picture = Image.fromarray(eight_bits(picture.mode, np.asarray(picture)))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        if managed:
            color = _managed(clear.convert("RGB"))
            color.putalpha(clear.getchannel("A"))
            clear = color
        return Image.alpha_composite(Image.new("RGBA", clear.size, ground), clear).convert("RGB")
    if not managed:
        return picture.convert("RGB")
    if picture.mode in ("L", "CMYK"):
        picture = _managed(picture)
    return _managed(picture.convert("RGB"))


def flattened(picture: Image.Image) -> Image.Image:
    """What is transparent laid on white; an opaque picture as it is."""
    return picture if picture.mode == "RGB" else _to_rgb(picture, managed=False)


def crop_to(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the largest centered part of the wanted shape and resize it to (width, height)."""
    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def to_tensor(pictures: Image.Image | Iterable[Image.Image]) -> Tensor:
    """RGB or gray pictures of one size to (B, C, H, W) in [-1, 1].

    Examples
    --------
    >>> to_tensor(Image.new("RGB", (4, 2), "white")).shape
    torch.Size([1, 3, 2, 4])
    """
    many = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    arrays = [np.asarray(p).reshape(p.height, p.width, -1) for p in many]
    return from_bytes(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))


def from_bytes(values: Tensor) -> Tensor:
    """Values 0 to 255 of any shape to float32 in [-1, 1]."""
    return values.float() / 127.5 - 1


def check_finite(x: Tensor) -> Tensor:
    """The values, unless one is NaN or infinite: that is no picture.

    Raises
    ------
    ModelError
    """
    if not x.isfinite().all():
        raise ModelError(
            "the network gave values that are not finite: no picture; its weights may be damaged, "
            "or float16 too narrow for them"
        )
    return x


def to_bytes(x: Tensor) -> Tensor:
    """Values in [-1, 1] to uint8, rounded to the nearest; what lies outside is clipped.

    Raises
    ------
    ModelError
        If a value is not finite.
    """
    check_finite(x)
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pictures(x: Tensor) -> list[Image.Image]:
    """(B, 3 or 1, H, W) in [-1, 1] to pictures.

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
    """Pictures side by side on white, in cells of the largest, with captions below them if there
    are some.

    They are as square as they go if `columns` is not given.
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
