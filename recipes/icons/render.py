"""Draw the icons at any size from the packages that they come from.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz          # folder package/
    apt-get download openclipart-svg && dpkg-deb -x openclipart-svg_*.deb clip  # optional
    pip install --no-deps resvg-py
    python recipes/icons/render.py icons64_train.parquet package/ large.parquet --size 256 \
        [--clip clip/]

The list says which icons, by the columns id (``set:name``), caption, name and licence; only rows
under free licences are drawn (prepare.py). The result has image (PNG) and text. An icon is drawn as
its set defines it, on white. Drawings of openclipart are as large as fits 29 of 32 parts of a side.
Shrunk to a quarter by averaging, icons of 256 pixels are those of the list. What could not be drawn
is counted by set.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from prepare import is_free

MARGIN = 1.5 / 32  # of a side, around a drawing of openclipart
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
BODY = (
    '<svg {names} viewBox="{left} {top} {wide} {tall}" width="{wide}" height="{tall}">{body}</svg>'
)


@functools.cache
def icon_set(path: Path) -> dict[str, Any]:
    """A set of @iconify/json."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def icon(package: Path, name: str) -> str | None:
    """An icon as SVG, by ``set:name``; None if the package has none of this name."""
    prefix, _, own = name.partition(":")
    path = package / "json" / f"{prefix}.json"
    if not path.exists():
        return None
    found = icon_set(path)
    one = found["icons"].get(own)
    if one is None:
        return None
    keys = {"left": "left", "top": "top", "wide": "width", "tall": "height"}
    usual = {"left": 0, "top": 0, "width": 16, "height": 16}
    place = {k: one.get(v, found.get(v, usual[v])) for k, v in keys.items()}
    return BODY.format(names=NAMESPACES, body=one["body"], **place)


def rendered(size: int, **source: str) -> Image.Image:
    """An SVG whose longer side has some pixels."""
    import resvg_py

    first = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(skip_system_fonts=True, **source))))
    longer = "width" if first.width >= first.height else "height"
    drawn = resvg_py.svg_to_bytes(skip_system_fonts=True, **source, **{longer: size})
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


def draw(row: dict[str, Any], package: Path, clip: Path | None, size: int) -> bytes | None:
    """A row's picture as PNG; None if it cannot be drawn."""
    own, inner = row["id"].partition(":"), size
    try:
        if own[0] == "openclipart":
            path = clip and clip / "usr/share/openclipart/svg" / f"{own[2]}.svg"
            if path is None or not path.exists():
                return None
            inner = round(size * (1 - 2 * MARGIN))
            large = rendered(4 * size, svg_path=str(path))
            large = large.crop(large.getchannel("A").getbbox())
            large.thumbnail((inner, inner), Image.Resampling.LANCZOS)
        elif (svg := icon(package, row["id"])) is not None:
            large = rendered(size, svg_string=svg)
        else:
            return None
    except ValueError:  # what resvg cannot read
        return None
    ground = Image.new("RGBA", (size, size), "white")
    ground.alpha_composite(large, ((size - large.width) // 2, (size - large.height) // 2))
    stream = io.BytesIO()
    ground.convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def rows_drawn(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of the result; counts by set of what is missing are printed at the end."""
    columns = ["id", "caption", "name", "licence"]
    listed = pq.read_table(given.list, columns=columns).to_pylist()
    rows = [row for row in listed if is_free(row["licence"])]
    work = functools.partial(draw, package=given.package, clip=given.clip, size=given.size)
    missing: Counter[str] = Counter()
    with Pool() as pool:
        for row, data in zip(rows, pool.imap(work, rows, chunksize=32), strict=True):
            if data is None:
                missing[row["id"].partition(":")[0]] += 1
            else:
                yield {"id": row["id"], "image": data, "text": [row["caption"], row["name"]]}
    print(f"{len(rows) - missing.total()} of {len(rows)} drawn; missing: {dict(missing)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--clip", type=Path)
    given = parser.parse_args()
    pq.write_table(pa.Table.from_pylist(list(rows_drawn(given))), given.output)
