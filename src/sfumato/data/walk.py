"""The files that a folder or an archive holds, hidden ones left out."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


def files(folder: Path) -> list[Path]:
    """All files in a folder and in its folders, in order. Links to folders are followed, but not in
    circles.

    What begins with a dot is left out: thumbnails, checkpoints and resource forks of other
    programs. So are pipes, sockets and devices; a link that leads nowhere is kept, to be told of.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for place, inner, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            inner.clear()
            continue
        seen.add(here)
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    # no pipes, which would be waited for
    return sorted(path for path in found if path.is_file() or not path.exists())


def hidden(name: str) -> bool:
    """Whether a member of an archive is hidden: it, or a folder that holds it, begins with a dot or
    is macOS's own.

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
