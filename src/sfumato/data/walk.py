"""List the files of a folder, and recognize hidden files in archives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sfumato import image


def files(folder: Path) -> list[Path]:
    """List all files in a folder and its subfolders, sorted.

    Links to folders are followed; each folder is listed once. Names that begin with a dot are left
    out (thumbnails, Jupyter checkpoints and macOS resource forks), and so are pipes, sockets and
    devices. A broken link is kept, so that reading it reports an error.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for place, inner, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            inner.clear()
            continue
        seen.add(here)
        # a folder is listed under its own name rather than under a link beside it
        visible = (name for name in inner if not name.startswith("."))
        ordered = sorted((Path(place, name).is_symlink(), name) for name in visible)
        inner[:] = [name for _, name in ordered]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    # no pipes: reading from a pipe would block
    return sorted(path for path in found if path.is_file() or not path.exists())


def pictures(paths: Sequence[Path]) -> list[Path]:
    """Return the pictures among files.

    Photos in formats that cannot be read (HEIC, PSD, camera raw) are included, so that they are
    reported. Such a photo is left out if a readable picture of the same name is beside it.
    """
    readable = {path.with_suffix("") for path in paths if path.suffix.lower() in image.SUFFIXES}
    return [
        path
        for path in paths
        if path.suffix.lower() in image.SUFFIXES
        or (path.suffix.lower() in image.UNSUPPORTED and path.with_suffix("") not in readable)
    ]


def hidden(name: str) -> bool:
    """Whether a member of an archive is hidden.

    A member is hidden if a part of its path is ``__MACOSX`` or begins with a dot; the parts ``.``
    and ``..`` do not count.

    Examples
    --------
    >>> names = "./cat/0.png", "cat/.ipynb_checkpoints/0.png", "__MACOSX/cat/._0.png"
    >>> [hidden(name) for name in names]
    [False, True, True]
    """
    parts = PurePosixPath(name).parts
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in parts
    )
