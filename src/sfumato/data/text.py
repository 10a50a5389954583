"""Find text files, and decode texts of unknown encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from sfumato import image
from sfumato.data.walk import files
from sfumato.errors import DataError

MARKS = (  # byte order marks, the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
GUESSED = "its text is not UTF-8 and was read as Windows-1252"
BINARY = "it is not a text file, but binary data"
# control characters that do not occur in texts, and their largest share of a text
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"})
MOST_CONTROL = 0.02


def decode(content: bytes) -> tuple[str, str | None]:
    """Decode a text, and return a note if its encoding was guessed, or if it is binary data.

    UTF-8 is recognized with certainty, and so are UTF-16 and UTF-32 with a byte order mark. UTF-16
    without a byte order mark is recognized by its zero bytes.

    Examples
    --------
    >>> decode("café".encode("utf-8-sig")), decode("café".encode("utf-16"))
    (('café', None), ('café', None))
    >>> decode("café".encode("cp1252"))
    ('café', 'its text is not UTF-8 and was read as Windows-1252')
    >>> decode(bytes(range(256)))[1]
    'it is not a text file, but binary data'
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace"), None
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if content[start::2].count(0) * 4 > len(content):  # more than half of these bytes are zero
            return content.decode(encoding, "replace"), None
    control = len(content) - len(content.translate(None, CONTROL))
    if control > MOST_CONTROL * len(content):
        return content.decode("cp1252", "replace"), BINARY
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace"), GUESSED


def document(content: bytes) -> tuple[str, str | None]:
    """Decode a document as :func:`decode` does.

    Raises
    ------
    DataError
        If the content is binary data, or an empty text.
    """
    text, note = decode(content)
    if note == BINARY:
        raise DataError(BINARY)
    if not text.strip():
        raise DataError("it is empty")
    return text, note


def document_files(folder: Path) -> list[Path]:
    """List the ``.txt`` files of a folder of documents; empty if the folder has pictures, too."""
    there = files(folder)
    if any(path.suffix.lower() in image.SUFFIXES for path in there):
        return []
    return [path for path in there if path.suffix.lower() == ".txt"]
