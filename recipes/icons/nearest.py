"""Write the data for ``sfumato inspect --nearest`` and ``sfumato models --near``.

The first needs the codes and names of the training pictures, the second the text encoder's states
for these names.

    python recipes/icons/nearest.py icons64_train.parquet src/sfumato/pretrained/icons

The codes are PCA codes of the pictures at 32x32 pixels, rounded to 1/16 of their standard
deviation.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from prepare import is_free
from safetensors.torch import save_file

from sfumato.runtime import atomic
from sfumato.space.pca import Moments
from sfumato.tasks.names import write_states
from sfumato.tasks.nearest import CODES, COLUMNS, FOLDER, NAMES, codable

SIZE, STEP = 128, 1 / 16


def main(source: str, target: str) -> None:
    """Encode the rows that the model was trained on."""
    rows = [row for row in pq.read_table(source).to_pylist() if is_free(row["licence"])]
    pictures = torch.cat([codable(Image.open(io.BytesIO(row["image"]))) for row in rows])
    values = pictures.flatten(1).numpy()
    space = Moments.of(values).solve(SIZE)
    scale = STEP * np.sqrt(space.variances)
    codes = (space.encode(pictures).numpy() / scale).round().clip(-127, 127)
    lost = 1 - space.variances.sum() / space.total
    print(f"{len(rows)} pictures; {lost:.1%} of the variance is not in the codes")
    folder = Path(target) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "mean": torch.from_numpy(space.mean).half(),
        "components": torch.from_numpy(space.components).half(),
        "scale": torch.from_numpy(scale).float(),
        "codes": torch.from_numpy(codes.astype(np.int8)),
    }
    with atomic(folder / CODES) as scratch:
        save_file(tensors, scratch)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"license": row["licence"]} for row in rows)
    with atomic(folder / NAMES) as scratch:
        scratch.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    write_states(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
