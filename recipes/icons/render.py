"""Render the icons at any size from their packages.

    python recipes/icons/render.py icons64.parquet build/packages/iconify/package/ large.parquet \
        --size 256 --clip build/packages/clip/

The list is a file that gather.py writes. Its columns id (``set:name``), caption, name and licence
describe the icons; only rows with free licenses are rendered (prepare.py). The output file has the
columns id, image (PNG) and text. An icon is rendered on white, as its set defines it. The longer
side of an openclipart drawing is 29/32 of the picture's side. An icon of 256 pixels that is shrunk
to a quarter by averaging equals the icon of the list. The number of icons that could not be
rendered is printed per set.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from prepare import is_free

UNITS = {"pt": 4 / 3, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}  # in pixels
PROBE = 64  # pixels across, to see which side of a drawing is the longer one
MARGIN = 1.5 / 32  # margin around an openclipart drawing, as a share of the side
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
BODY = (
    '<svg {names} viewBox="{left} {top} {wide} {tall}" width="{wide}" height="{tall}">{body}</svg>'
)


@functools.cache
def icon_set(path: Path) -> dict[str, Any]:
    """Return a set of @iconify/json."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def icon(package: Path, name: str) -> str | None:
    """Return the icon ``set:name`` as SVG; None if the package does not contain it."""
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


def in_pixels(svg: str) -> str:
    """Return an SVG with sides in pixels and with XML namespaces, as resvg requires."""
    found = re.search(r"<svg\b[^>]*>", svg)
    if found is None:
        raise ValueError("no SVG")
    head = found[0] if "xmlns=" in found[0] else found[0].replace("<svg", f"<svg {NAMESPACES}", 1)

    def pixels(side: re.Match[str]) -> str:
        return f'{side[1]}="{float(side[2]) * UNITS[side[3]]:g}"'

    head = re.sub(rf'(?<=\s)(width|height)="([\d.]+)({"|".join(UNITS)})"', pixels, head)
    return svg[: found.start()] + head + svg[found.end() :]


def rendered(size: int, **source: str) -> Image.Image:
    """Render an SVG so that its longer side has `size` pixels."""
    import resvg_py

    def drawn(**longer: int) -> Image.Image:
        data = resvg_py.svg_to_bytes(skip_system_fonts=True, **source, **longer)
        return Image.open(io.BytesIO(bytes(data)))

    small = drawn(width=PROBE)  # a drawing may declare a width of 20,000 pixels
    return drawn(**{"width" if small.width >= small.height else "height": size}).convert("RGBA")


def draw(row: dict[str, Any], package: Path, clip: Path | None, size: int) -> bytes | None:
    """Return a row's picture as PNG; None if it cannot be rendered."""
    made = picture(row["id"], package, clip, size)
    return None if made is None else png(made)


def png(made: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    stream = io.BytesIO()
    made.save(stream, "PNG")
    return stream.getvalue()


def picture(name: str, package: Path, clip: Path | None, size: int) -> Image.Image | None:
    """Return the icon ``set:icon`` on white; None if it cannot be rendered."""
    own, inner = name.partition(":"), size
    try:
        if own[0] == "openclipart":
            path = clip and clip / "usr/share/openclipart/svg" / f"{own[2]}.svg"
            if path is None or not path.exists():
                return None
            inner = round(size * (1 - 2 * MARGIN))
            large = rendered(4 * size, svg_string=in_pixels(path.read_text("utf-8", "replace")))
            large = large.crop(large.getchannel("A").getbbox())
            large.thumbnail((inner, inner), Image.Resampling.LANCZOS)
        elif (svg := icon(package, name)) is not None:
            large = rendered(size, svg_string=svg)
        else:
            return None
    except ValueError:  # resvg cannot read the SVG
        return None
    ground = Image.new("RGBA", (size, size), "white")
    ground.alpha_composite(large, ((size - large.width) // 2, (size - large.height) // 2))
    return ground.convert("RGB")


def rows_drawn(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of the output; at the end, print the number of missing icons per set."""
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
