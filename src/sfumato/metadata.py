"""Settings inside picture files, in two forms.

One is the ``parameters`` text of AUTOMATIC1111's web UI (A1111), which many programs show. The
other is our own JSON, from which the same picture can be created again.

PNG holds both as text chunks; JPEG and WebP hold them in EXIF (``UserComment`` and
``ImageDescription``).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sfumato.errors import PictureError
from sfumato.image import flattened, opened
from sfumato.runtime import atomic, replace_surrogates

SCHEMA = 1
CHARACTER_CODES = (b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8))  # EXIF 2.32, table 9
DESCRIPTION, EXIF_POINTER, USER_COMMENT = 0x010E, 0x8769, 0x9286  # EXIF 2.32, tables 4 and 7
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def parameters(settings: Mapping[str, Any], sampler: str, schedule: str) -> str:
    """Format the settings of `create` as A1111's text.

    `sampler` and `schedule` are A1111's names
    (:func:`sfumato.sampler.registry.labels_of`).

    Examples
    --------
    >>> settings = {"prompt": "a cat", "steps": 5, "guidance_scale": 4.0, "seed": 1}
    >>> settings |= {"size": [64, 64], "model": "icons", "version": "0.1"}
    >>> text = parameters({**settings, "model_sha256": "ab" * 32}, "Euler", "Karras")
    >>> print(text.replace(", Model hash", "\\nModel hash"))
    a cat
    Steps: 5, Sampler: Euler, Schedule type: Karras, CFG scale: 4, Seed: 1, Size: 64x64
    Model hash: ababababab, Model: icons, Version: sfumato 0.1
    """
    # the prompt with its style, as other programs do not know our styles
    lines = [settings.get("styled", settings["prompt"])]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    width, height = settings["size"]
    pairs = {
        "Steps": settings["steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{settings['guidance_scale']:g}",
        "Seed": settings["seed"],
        "Size": f"{width}x{height}",
        "Model hash": settings["model_sha256"][:10],
        "Model": settings["model"],
        "Denoising strength": settings.get("strength") if settings.get("source") else None,
        "Version": f"sfumato {settings['version']}",
    }
    quoted = {
        k: json.dumps(v) if isinstance(v, str) and set(v) & set(",:\n") else v
        for k, v in pairs.items()
        if v is not None
    }
    return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in quoted.items())])


def save(picture: Image.Image, path: Path, settings: Mapping[str, Any], text: str) -> None:
    """Write a picture atomically, and store its settings in the file twice.

    `settings` are stored as our JSON. `text` holds the same settings in A1111's form.

    Raises
    ------
    PictureError
        If the suffix is not .png, .jpg, .jpeg or .webp, or the file cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    ours = {"schema": SCHEMA, **settings}
    profile = picture.info.get("icc_profile")
    try:
        with atomic(path) as scratch:
            if kind == "PNG":
                info = PngImagePlugin.PngInfo()
                info.add_itxt("parameters", replace_surrogates(text))
                whole = json.dumps(ours, ensure_ascii=False)
                # a file name may not be valid UTF-8
                info.add_itxt(
                    "sfumato", whole if replace_surrogates(whole) == whole else json.dumps(ours)
                )
                picture.save(scratch, kind, pnginfo=info, icc_profile=profile)
            else:
                if kind == "JPEG":  # JPEG has no transparency
                    picture = flattened(picture)
                exif = Image.Exif()
                exif[DESCRIPTION] = json.dumps(ours)  # in ASCII, as EXIF requires
                exif.get_ifd(EXIF_POINTER)[USER_COMMENT] = b"UNICODE\0" + replace_surrogates(
                    text
                ).encode("utf-16-be")
                extra = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0}
                picture.save(scratch, kind, exif=exif, icc_profile=profile, **extra)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from None
    except ValueError as error:
        raise PictureError(
            f"{path}: the settings do not fit into a {kind} ({error}); write a .png"
        ) from None


def read(path: Path | bytes) -> tuple[dict[str, Any] | None, str | None]:
    """Read our settings and the ``parameters`` text from a picture; None stands for a missing part.

    Raises
    ------
    PictureError
        If the file is no readable picture.
    """
    settings, texts = read_all(path)
    return settings, texts.get("parameters")


def read_all(path: Path | bytes) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Read our settings, if present, and all text entries of a picture's metadata by their keys.

    Raises
    ------
    PictureError
        If the file is no readable picture.
    """
    texts, ours = opened(path, _held)
    return _settings(ours), texts


def comment_text(comment: bytes | str) -> str | None:
    r"""Decode an EXIF UserComment in any form that programs write; return None for an empty
    comment.

    The first eight bytes of a UserComment name a character code. After "UNICODE", the text is
    UTF-16 in either byte order, with or without a byte order mark. Some programs write UTF-8
    instead, against the standard.

    Examples
    --------
    >>> comment_text(b"UNICODE\0" + "a cat".encode("utf-16-le")), comment_text(b"ASCII\0\0\0a cat")
    ('a cat', 'a cat')
    """
    if isinstance(comment, str):
        return comment.strip("\0 ") or None
    code, content = comment[:8], comment[8:]
    if code not in CHARACTER_CODES:
        content = comment  # written without a character code
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").strip("\0 ") or None
    if code == b"UNICODE\0" and content:
        even, odd = content[::2].count(0), content[1::2].count(0)
        # letters of Western languages have a zero high byte
        if even or odd or not _is_utf8(content):
            return (
                content.decode("utf-16-le" if odd > even else "utf-16-be", "replace").strip("\0 ")
                or None
            )
    return content.decode("utf-8", "replace").strip("\0 ") or None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _held(picture: Image.Image) -> tuple[dict[str, str], object]:
    """Return the text entries of a picture's metadata, and our settings.

    Without an entry ``parameters``, the EXIF comment takes its place.
    """
    picture.load()
    exif = picture.getexif()
    ours = picture.info.get("sfumato") or exif.get(DESCRIPTION)
    texts = {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    comment = exif.get_ifd(EXIF_POINTER).get(USER_COMMENT)
    if "parameters" not in texts and isinstance(comment, bytes | str):
        said = comment_text(comment)
        texts |= {"parameters": said} if said else {}
    return texts, ours


def _settings(text: object) -> dict[str, Any] | None:
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and "schema" in data else None
