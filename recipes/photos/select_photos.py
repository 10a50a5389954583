"""Select photographs with licenses that let the weights be shipped, and hold some out.

    python recipes/photos/select_photos.py photos_train_open.parquet work photos64.parquet
    [endless-sky/ budgie/ government/]

The script writes ``work/train.parquet``, ``work/val.parquet`` (held-out photos, to look at during
training), ``work/attribution.csv`` and ``work/color.parquet``. ``color.parquet`` holds the color
photos and the many small photos of photos64, which show more kinds of things than the large photos.
``endless-sky`` is the content of Debian's package endless-sky-high-dpi; its landscapes are added to
the large photos. ``budgie`` holds the photos of budgie-backgrounds. They are few but sharp,
and show animals and buildings, so each is sampled as often as six other photos. ``government``
holds public-domain photographs of people, streets and farms that were taken for the government of
the United States. It has two folders, ``fsaowi`` (1935 to 1944, gray) and ``documerica`` (1971 to
1977).
"""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from sfumato.train.restorer import LONGEST

FREE = ("CC0", "CC-BY-2", "CC-BY-4", "MIT", "Apache-2.0", "public domain")
ASIDE = 12
COLUMNS = ["id", "image", "source", "licence"]
OFTEN = 6.0
# government photographs: sampling weight, and width of the rim as a share of each side
GOVERNMENT_OFTEN = 3.0
RIMS = {"fsaowi": 0.09, "documerica": 0.04}
# files of budgie-backgrounds that are not photographs or are nearly black
DRAWN = ("valley-midnight", "waves-midnight", "saturnian-profile")
# the landscapes of endless-sky that are not in the public domain according to its copyright file
# (CC-BY-SA)
SHARE_ALIKE = re.compile(
    r"^(bwerner|myrabella|dmottl|mfield|lava5)|-(sfiera|striker|harro|iridium|spfld)"
)


def free(table: pa.Table) -> pa.Table:
    """Return the rows with licenses that let weights trained on them be shipped."""
    return table.filter(pa.array([str(v).startswith(FREE) for v in table["licence"].to_pylist()]))


def landscapes(package: Path) -> pa.Table:
    """Return the public-domain photographs of Debian's endless-sky-high-dpi.

    Their sources are morgue-file, Unsplash before 2017, NASA and USGS.
    """
    files = [
        f for f in sorted(package.rglob("images/land/*.jpg")) if not SHARE_ALIKE.search(f.name)
    ]
    source = "Debian endless-sky-high-dpi"
    rows = [
        {
            "id": f"endless-sky/{f.name}",
            "image": f.read_bytes(),
            "source": source,
            "licence": "public domain",
        }
        for f in files
    ]
    return pa.Table.from_pylist(rows)


def backgrounds(folder: Path) -> pa.Table:
    """Return the photographs of Debian's budgie-backgrounds (CC0), shrunk to the training size."""
    rows = []
    files = [f for f in folder.rglob("*") if f.suffix in (".jpg", ".png")]
    for file in sorted(files):
        if file.stem not in DRAWN:
            picture, held = Image.open(file).convert("RGB"), io.BytesIO()
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            picture.save(held, format="PNG")
            source = "Debian budgie-backgrounds"
            rows.append(
                {
                    "id": f"budgie/{file.stem}",
                    "image": held.getvalue(),
                    "source": source,
                    "licence": "CC0",
                    "weight": OFTEN,
                }
            )
    if not rows:
        raise SystemExit(f"{folder} contains no PNG or JPEG file; README.md says where to get them")
    return pa.Table.from_pylist(rows)


def government(folder: Path) -> pa.Table:
    """Return the photographs taken for the government of the United States, without film rims."""
    rows = []
    for name, rim in RIMS.items():
        for file in sorted((folder / name).glob("*.jpg")):
            picture, held = Image.open(file).convert("RGB"), io.BytesIO()
            x, y = round(rim * picture.width), round(rim * picture.height)
            picture.crop((x, y, picture.width - x, picture.height - y)).save(held, format="PNG")
            rows.append(
                {
                    "id": f"{name}/{file.stem}",
                    "image": held.getvalue(),
                    "source": f"government of the United States, {name}",
                    "licence": "public domain",
                    "weight": GOVERNMENT_OFTEN,
                }
            )
    if not rows:
        raise SystemExit(f"{folder} contains no photographs; README.md says where to get them")
    return pa.Table.from_pylist(rows)


def colored(data: bytes) -> bool:
    """Whether a picture shows any color."""
    values = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    return float(np.ptp(values, axis=2).mean()) > 6


def main(
    source: Path,
    folder: Path,
    small: Path,
    package: Path | None = None,
    budgie: Path | None = None,
    states: Path | None = None,
) -> None:
    """Split the free rows of a parquet file, and add the photographs of the other sources.

    The file has the columns image, licence, source and id.
    """
    table = free(pq.read_table(source))
    order = np.random.default_rng(0).permutation(len(table))
    folder.mkdir(parents=True, exist_ok=True)
    val, train = table.take(np.sort(order[:ASIDE])), table.take(np.sort(order[ASIDE:]))
    if package is not None:
        train = pa.concat_tables(
            [train.select(COLUMNS), landscapes(package)], promote_options="permissive"
        )
    if budgie is not None:
        # rows without a weight get weight 1 in training
        train = pa.concat_tables(
            [train.select(COLUMNS), backgrounds(budgie)], promote_options="permissive"
        )
    if states is not None:
        columns = [*COLUMNS, "weight"] if "weight" in train.column_names else COLUMNS
        train = pa.concat_tables(
            [train.select(columns), government(states)], promote_options="permissive"
        )
    pq.write_table(train, folder / "train.parquet")
    more = free(pq.read_table(small)).filter(pc.field("split") == "train")
    both = pa.concat_tables(
        [train.select(COLUMNS), more.select(COLUMNS)], promote_options="permissive"
    )
    both = both.filter(pa.array([colored(data) for data in both["image"].to_pylist()]))
    pq.write_table(both, folder / "color.parquet")
    pq.write_table(val, folder / "val.parquet")
    with (folder / "attribution.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "source", "license"))
        for part in (train, val):
            credit = part.select(["id", "source", "licence"]).to_pylist()
            writer.writerows(row.values() for row in credit)
    print(
        f"{len(train) + len(val)} photographs, {ASIDE} of them set aside; {len(both)} in color, "
        "large and small"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
