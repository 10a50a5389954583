"""Decode a training set once, into one file of bytes that the training loop maps into memory.

A picture that cannot be read is skipped and listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato import image
from sfumato.data.samples import Sample, scan
from sfumato.data.walk import files
from sfumato.errors import DataError, PictureError
from sfumato.runtime import array_file, atomic
from sfumato.types import Progress, Reporting


@dataclass(frozen=True)
class Pictures:
    """A packed training set.

    Attributes
    ----------
    pixels : memory map, (N, 3, S, S), uint8
    captions : list of tuple of str
    weights : array, (N,), sampling weight of each picture
    skipped : list of str
        One sentence for each picture that was left out: it could not be read, or has no caption.
    notes : list of str
        One sentence for each caption whose encoding was guessed, and for each caption without a
        picture.
    digest : str
        Digest of the pixels, sampling weights and (if they are used) captions. Cached results and
        checkpoints of other data have another digest.
    """

    pixels: NDArray[np.uint8]
    captions: list[tuple[str, ...]]
    weights: NDArray[np.float64]
    skipped: list[str]
    notes: list[str]
    digest: str


def pack(
    source: Path, size: int, cache: Path, *, captions: bool, enlarge: bool = True
) -> Reporting[Pictures]:
    """Decode every picture once to `size` x `size` pixels.

    This is a generator: it yields progress and returns the pictures. ``cache/pictures.npy`` keeps
    the pixels for later calls.

    Parameters
    ----------
    source : path
        See :func:`sfumato.data.samples.find`.
    size : int
        Side in pixels. From each picture, the largest centered square is used.
    cache : path
        Folder for the packed bytes.
    captions : bool
        Whether pictures without a caption are skipped.
    enlarge : bool
        Whether smaller pictures are enlarged; otherwise they are skipped.

    Raises
    ------
    DataError
        If no usable picture is left; the message gives the reason.
    """
    found = scan(source)
    samples = found.samples
    if captions and not any(s.captions for s in samples):
        raise DataError(
            f"{source} has no captions; add metadata.jsonl (file_name, text), a .txt beside each "
            "picture, or class folders"
        )
    index = cache / "pictures.json"
    key = {
        "source": str(source.resolve()),
        "state": state(source),
        "size": size,
        "captions": captions,
        "enlarge": enlarge,
    }
    known = note_of(cache / "pictures.npy")
    whole = "pixels" in known and is_array(cache / "pictures.npy")
    if known.get("key") != key or not whole:
        yield from _decode(samples, size, cache, key, captions=captions, enlarge=enlarge)
    record = json.loads(index.read_text("utf-8"))
    kept = [samples[k] for k in record["kept"]]
    if not kept:
        raise DataError(
            f"{source}: none of {len(samples)} pictures could be used; first: "
            f"{record['skipped'][0]}"
        )
    pixels = np.load(cache / "pictures.npy", mmap_mode="r")[: len(kept)]
    told = [s.captions for s in kept]
    weights = np.array([s.weight for s in kept])
    if not 0 < weights.sum() < np.inf:
        raise DataError(f"{source}: the sampling weights are all 0, or their sum is too large")
    digest = digest_of(record["pixels"], weights, json.dumps(told if captions else []))
    return Pictures(pixels, told, weights, record["skipped"], found.notes, digest)


def digest_of(*parts: str | NDArray[Any]) -> str:
    """Digest of texts and arrays.

    Examples
    --------
    >>> digest_of("a", np.zeros(2)) == digest_of("a", np.ones(2))
    False
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        else:
            digest.update(f"{part.dtype.str} {part.shape}\0".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def note_of(path: Path) -> dict[str, Any]:
    """Read the JSON note beside a cached ``.npy`` file; empty if it is missing or unreadable."""
    try:
        found = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_array(path: Path, shape: tuple[int, ...] | None = None) -> bool:
    """Whether a ``.npy`` file is complete and has the given shape."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return shape is None or found.shape == shape


def state(source: Path) -> str:
    """Digest of the names, sizes and modification times of a training set's files."""
    kinds = image.SUFFIXES | image.UNSUPPORTED | {".txt", ".csv", ".jsonl", ".parquet"}
    there = [p for p in files(source) if p.suffix.lower() in kinds] if source.is_dir() else [source]
    lines = []
    for path in there:
        name = path.relative_to(source).as_posix()
        if path.exists():
            about = path.stat()
            lines.append([name, about.st_size, about.st_mtime_ns])
        else:  # a broken link, which is listed as an unreadable picture
            lines.append([name, -1, 0])
    return hashlib.blake2b(json.dumps(lines).encode(), digest_size=12).hexdigest()


def _decode(
    samples: list[Sample],
    size: int,
    cache: Path,
    key: dict[str, Any],
    *,
    captions: bool,
    enlarge: bool,
) -> Iterator[Progress]:
    kept: list[int] = []
    skipped: list[str] = []
    digest = hashlib.blake2b(digest_size=12)
    # removed first: an interrupted run leaves no index of other pictures
    (cache / "pictures.json").unlink(missing_ok=True)
    with atomic(cache / "pictures.npy") as scratch:
        out = array_file(scratch, np.uint8, (len(samples), 3, size, size))
        for k, sample in enumerate(samples):
            yield Progress("reading pictures", k, len(samples))
            if captions and not sample.captions:
                skipped.append(f"{sample.name}: no caption")
                continue
            try:
                picture = image.read(sample.read())
                if not enlarge and min(picture.size) < size:
                    raise PictureError(
                        f"{picture.width}x{picture.height} pixels; {size}x{size} are needed"
                    )
                picture = image.crop_to(picture, (size, size))
            except (PictureError, OSError) as error:
                skipped.append(f"{sample.name}: {error}")
                continue
            out[len(kept)] = np.asarray(picture).transpose(2, 0, 1)
            digest.update(np.ascontiguousarray(out[len(kept)]).data)
            kept.append(k)
        out.flush()
        del out
    with atomic(cache / "pictures.json") as scratch:
        record = {"key": key, "pixels": digest.hexdigest(), "kept": kept, "skipped": skipped}
        scratch.write_text(json.dumps(record), "utf-8")
