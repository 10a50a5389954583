"""Take the photographs whose licence lets the weights be shipped, and set some aside to look at while training.

    python recipes/photos/select_photos.py photos_train_open.parquet work

writes ``work/train.parquet``, ``work/color.parquet`` (the same without gray photos), ``work/val.parquet`` and
``work/attribution.csv``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FREE = ("CC0", "CC-BY-2", "CC-BY-4", "MIT", "Apache-2.0", "public domain")
ASIDE = 12


def main(source: Path, folder: Path) -> None:
    """Split the free rows of a parquet file with columns image, licence, source and id."""
    table = pq.read_table(source)
    table = table.filter(pa.array([str(v).startswith(FREE) for v in table["licence"].to_pylist()]))
    order = np.random.default_rng(0).permutation(len(table))
    folder.mkdir(parents=True, exist_ok=True)
    train = table.take(np.sort(order[ASIDE:]))
    pq.write_table(train, folder / "train.parquet")
    pq.write_table(train.filter(pa.array([not gray for gray in train["gray"].to_pylist()])), folder / "color.parquet")
    pq.write_table(table.take(np.sort(order[:ASIDE])), folder / "val.parquet")
    with (folder / "attribution.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = ("id", "source", "licence")
        writer.writerow(names)
        writer.writerows(zip(*(table[n].to_pylist() for n in names), strict=True))
    print(f"{len(table)} photographs, {ASIDE} of them set aside")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
