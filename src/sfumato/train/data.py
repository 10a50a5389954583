"""Training sets: pictures with captions from a folder, a parquet file or a WebDataset tar.

Reading is two passes: :func:`find` lists what is there without decoding, :func:`pack` decodes once into one file of
bytes that the training loop maps into memory. What cannot be read is skipped and listed, never fatal.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato import image
from sfumato.errors import DataError, PictureError
from sfumato.runtime import array_file, atomic, legible

PICTURE_COLUMNS = ("image", "picture", "jpg", "png", "webp", "bytes")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "label")


@dataclass(frozen=True)
class Sample:
    """One picture, not yet decoded.

    Attributes
    ----------
    name : str
        What to call it in a message.
    captions : tuple of str
        Alternatives of which one is drawn each time; empty if there is none.
    read : callable
        Returns the picture file's bytes.
    weight : float
        How often it is drawn, against 1.
    path : Path, optional
        Its file, where it has one of its own.
    """

    name: str
    captions: tuple[str, ...]
    read: Callable[[], bytes]
    weight: float = 1.0
    path: Path | None = None

    @classmethod
    def of(cls, path: Path, folder: Path, captions: tuple[str, ...] = ()) -> Sample:
        """A file in a folder; bytes of its name that are no UTF-8 are spelled out."""
        name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
        return cls(name, captions, path.read_bytes, path=path)


def find(source: Path) -> list[Sample]:
    """List the samples of a folder, ``.parquet`` file or ``.tar`` file.

    A folder's captions come from ``metadata.jsonl`` or ``metadata.csv`` (columns file_name, text), else from a
    ``.txt`` beside each picture, else from the name of the class folder that holds it.

    Raises
    ------
    DataError
        If there is nothing to read.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist; give a folder of pictures, a .parquet or a .tar file")
    if source.is_dir():
        found = list(_folder(source))
    elif source.suffix.lower() == ".parquet":
        found = list(_parquet(source))
    elif source.suffix.lower() == ".tar":
        found = list(_tar(source))
    else:
        raise DataError(f"{source} is no set of pictures; give a folder of pictures, a .parquet or a .tar file")
    if not found:
        raise DataError(f"{source} holds no pictures ({', '.join(sorted(image.SUFFIXES))})")
    return found


def files(folder: Path) -> list[Path]:
    """All files in a folder and those in it, links to folders followed, in order."""
    seen: set[str] = set()
    found: list[Path] = []
    for place, inner, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            inner.clear()
        else:
            found += [Path(place) / name for name in names]
        seen.add(here)
    return sorted(found)


def _captions(value: Any) -> tuple[str, ...]:
    many = value if isinstance(value, list | tuple) else [value]
    return tuple(legible(str(v)).strip() for v in many if v is not None and str(v).strip())


def _folder(folder: Path) -> Iterator[Sample]:
    table = _metadata(folder)
    for path in (p for p in files(folder) if p.suffix.lower() in image.SUFFIXES):
        name = path.relative_to(folder).as_posix()
        side = path.with_suffix(".txt")
        if table is not None:
            captions = table.get(name, ())
        elif side.exists():
            captions = _captions(side.read_text("utf-8", errors="replace"))
        else:
            captions = _captions(path.parent.name.replace("_", " ")) if path.parent != folder else ()
        yield Sample.of(path, folder, captions)


def _metadata(folder: Path) -> dict[str, tuple[str, ...]] | None:
    lines, rows = folder / "metadata.jsonl", folder / "metadata.csv"
    try:
        if lines.exists():
            records = [json.loads(line) for line in lines.read_text("utf-8-sig").split("\n") if line.strip()]
        elif rows.exists():
            with rows.open(newline="", encoding="utf-8-sig") as f:
                records = list(csv.DictReader(f))
        else:
            return None
        return {r["file_name"]: _captions(r.get("text")) for r in records}
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{folder}: its metadata needs the columns file_name and text in every row ({error!r})") from None


def read_table(path: Path) -> Any:
    """A .parquet, .csv or .tsv file as a pyarrow table; the columns of a table without names are f0, f1, ...

    Raises
    ------
    DataError
        If it cannot be read, has no rows, or several columns of one name.
    """
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise DataError('reading tables needs pyarrow: pip install "sfumato[reduce]"') from None
    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            separator, content = "\t" if path.suffix.lower() == ".tsv" else ",", path.read_bytes()
            # one thread: those of pyarrow end a process that leaves early, with torch loaded, by SIGABRT
            named = pyarrow.csv.ReadOptions(autogenerate_column_names=_headless(content, separator), use_threads=False)
            lines = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
            table = pyarrow.csv.read_csv(io.BytesIO(content), named, parse_options=lines)
        names = table.column_names
    except Exception as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise DataError(f"{path} has several columns named {', '.join(twice[:5])}")
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    return table


def _headless(content: bytes, separator: str) -> bool:
    """Whether the first line of a table is a row of it, rather than the columns' names.

    Names may be numbers, too, but such as count up: 0, 1, 2, ..., or 2010, 2015, 2019 beside words.

    Examples
    --------
    >>> [_headless(line, ",") for line in (b"a,inf,label", b"region,2010,2015,2019", b"0,1,2", b"5.1,3.5,1.4,setosa", b"0.5,0.7")]
    [False, False, False, True, True]
    """
    words = [w.strip().strip('"') for w in content.split(b"\n", 1)[0].decode("utf-8", "replace").split(separator)]
    numbers = []
    for word in words:
        with contextlib.suppress(ValueError):
            numbers.append(float(word))
    numbers = [n for n in numbers if math.isfinite(n)]  # "inf" and "nan" are words
    steps = {b - a for a, b in pairwise(numbers)}
    rising = all(n.is_integer() for n in numbers) and min(steps, default=1) > 0
    named = rising and (len(numbers) < len(words) or (len(numbers) > 2 and len(steps) == 1))
    return bool(numbers) and not named


def picture_column(table: Any) -> str | None:
    """The column of a table that holds picture files, if one does: of bytes, and named as such columns are."""
    kinds = "binary", "large_binary", "struct"
    return next((c for c in PICTURE_COLUMNS if c in table.column_names and str(table.schema.field(c).type).startswith(kinds)), None)


def _parquet(path: Path) -> Iterator[Sample]:
    table = read_table(path)
    picture = picture_column(table)
    if picture is None:
        raise DataError(f"{path} has no picture column; one of {', '.join(PICTURE_COLUMNS)} is expected, found {', '.join(table.column_names)}")
    caption = next((c for c in CAPTION_COLUMNS if c in table.column_names), None)
    pictures = table[picture]
    texts = table[caption].to_pylist() if caption else [None] * len(pictures)
    weights = table["weight"].to_pylist() if "weight" in table.column_names else [1.0] * len(pictures)
    for k, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        yield Sample(f"row {k}", _captions(text), lambda k=k: cell(pictures[k].as_py()), _weight(weight, path, k))  # type: ignore[misc]


def _weight(value: Any, path: Path, row: int) -> float:
    """How often a row is drawn; 1 where the cell is empty."""
    try:
        weight = 1.0 if value is None else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise DataError(f"{path}: the weight {value!r} of row {row} is no number from 0 on")
    return weight


def cell(value: Any) -> bytes:
    """The bytes of a picture file in a cell of a table: bytes, or a record that holds them."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise PictureError("the cell holds no picture bytes")
    return data


def _tar(path: Path) -> Iterator[Sample]:
    groups: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member) if member.isfile() else None
                if handle is not None:  # read into memory: nothing is unpacked, so a member's path cannot do harm
                    place, slash, name = member.name.rpartition("/")
                    stem, _, suffix = name.rpartition(".")
                    groups.setdefault(place + slash + stem, {})[f".{suffix.lower()}"] = handle.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a tar file: {error}") from None
    for stem, parts in groups.items():
        picture = next((parts[s] for s in parts if s in image.SUFFIXES), None)
        if picture is not None:
            yield Sample(stem, _tar_captions(parts), lambda picture=picture: picture)  # type: ignore[misc]


def _tar_captions(parts: dict[str, bytes]) -> tuple[str, ...]:
    if ".txt" in parts:
        return _captions(parts[".txt"].decode("utf-8", errors="replace"))
    try:
        record = json.loads(parts.get(".json", b"{}"))
        return _captions(next((record[c] for c in CAPTION_COLUMNS if c in record), None))
    except (ValueError, TypeError):
        return ()


@dataclass(frozen=True)
class Pictures:
    """A packed training set.

    Attributes
    ----------
    pixels : memory map, (N, 3, S, S), uint8
    captions : list of tuple of str
    weights : array, (N,)
    skipped : list of str
        One sentence for each picture that could not be read.
    key : str
        Names these pictures and captions: what is computed from others must not be taken for theirs.
    """

    pixels: NDArray[np.uint8]
    captions: list[tuple[str, ...]]
    weights: NDArray[np.float64]
    skipped: list[str]
    key: str = ""


def pack(source: Path, size: int, cache: Path, *, captions: bool) -> Pictures:
    """Decode every picture once to `size` x `size` bytes in ``cache/pictures.npy``; later calls read that.

    Parameters
    ----------
    source : path
        See :func:`find`.
    size : int
        Side in pixels; pictures are cut to the largest centered square.
    cache : path
        Folder for the packed bytes.
    captions : bool
        Whether every picture needs a caption; those without are then skipped.

    Raises
    ------
    DataError
        If nothing usable is left, with the reason.
    """
    samples = find(source)
    if captions and not any(s.captions for s in samples):
        raise DataError(f"{source} has no captions; add metadata.jsonl (file_name, text), a .txt beside each picture, or class folders")
    index = cache / "pictures.json"
    key = {"source": str(source.resolve()), "state": state(source, times=True), "size": size, "captions": captions}
    if not (index.exists() and (cache / "pictures.npy").exists() and json.loads(index.read_text("utf-8"))["key"] == key):
        _decode(samples, size, cache, key, captions=captions)
    record = json.loads(index.read_text("utf-8"))
    kept = [samples[k] for k in record["kept"]]
    if not kept:
        raise DataError(f"{source}: none of {len(samples)} pictures could be used; first: {record['skipped'][0]}")
    pixels = np.load(cache / "pictures.npy", mmap_mode="r")[: len(kept)]
    named = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
    return Pictures(pixels, [s.captions for s in kept], np.array([s.weight for s in kept]), record["skipped"], named)


def state(source: Path, *, times: bool = False) -> str:
    """A digest of what training data are on disk: names and sizes of files, with `times` also when each was changed."""
    kinds = image.SUFFIXES | {".txt", ".csv", ".jsonl"}
    there = [p for p in files(source) if p.suffix.lower() in kinds and p.exists()] if source.is_dir() else [source]
    found = [(p.relative_to(source).as_posix(), p.stat()) for p in there]
    lines = [[name, about.st_size, about.st_mtime_ns if times else 0] for name, about in found]
    return hashlib.blake2b(json.dumps(lines).encode(), digest_size=12).hexdigest()


def _decode(samples: list[Sample], size: int, cache: Path, key: dict[str, Any], *, captions: bool) -> None:
    kept: list[int] = []
    skipped: list[str] = []
    (cache / "pictures.json").unlink(missing_ok=True)  # it must not vouch for other pictures, whenever this ends
    with atomic(cache / "pictures.npy") as scratch:
        out = array_file(scratch, np.uint8, (len(samples), 3, size, size))
        for k, sample in enumerate(samples):
            if captions and not sample.captions:
                skipped.append(f"{sample.name}: no caption")
                continue
            try:
                picture = image.crop_to(image.read(sample.read()), (size, size))
            except (PictureError, OSError) as error:
                skipped.append(f"{sample.name}: {error}")
                continue
            out[len(kept)] = np.asarray(picture).transpose(2, 0, 1)
            kept.append(k)
        out.flush()
        del out
    with atomic(cache / "pictures.json") as scratch:
        scratch.write_text(json.dumps({"key": key, "kept": kept, "skipped": skipped}), "utf-8")
