"""Measure how many generated pictures are near copies of training pictures.

    python benchmarks/copies.py [--pictures 1000] [--held-out icons64_val.parquet]

For each picture, the distance to the nearest training picture or its mirror image is measured as in
``sfumato inspect --nearest``: the root mean square difference of 32x32 versions (pixel values 0 to
255), computed from PCA codes. A near copy is a picture with a distance of at most 16. Each prompt
is a random name of a training picture with a random style of the model, because copies are most
likely for these prompts. Held-out pictures are the baseline: they show how near pictures of the
same kind are without copying.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.hub.load import Model, load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import Made, stream
from sfumato.tasks.nearest import TrainingPictures

NEAR = 16.0


def made(model: Model, names: list[str], count: int) -> Iterator[Image.Image]:
    """Generate pictures for random names in random styles."""
    drawn = random.Random(0)
    styles = list(model.defaults.styles.values())
    prompts = [f"{drawn.choice(names)}, {drawn.choice(styles)}" for _ in range(count)]
    for event in stream(prompts, CreateOptions(seed=0), model):
        if isinstance(event, Made):
            yield event.picture


def held_out(path: Path) -> Iterator[Image.Image]:
    """Yield the pictures with a free license from a parquet file."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["image", "licence"]).to_pylist()
    for row in rows:
        if row["licence"].startswith(("MIT", "Apache", "CC0", "CC-BY-4.0")):
            yield Image.open(io.BytesIO(row["image"])).convert("RGB")


def report(what: str, pictures: Iterator[Image.Image], known: TrainingPictures) -> None:
    """Print quantiles of the distances, and the share of near copies."""
    distances = np.array([known.nearest(picture, 1)[0].distance for picture in pictures])
    low, middle, high = np.quantile(distances, (0.05, 0.5, 0.95))
    near = (distances <= NEAR).mean()
    print(
        f"{what:10} {len(distances):5}  5 % {low:5.1f}  50 % {middle:5.1f}  95 % {high:5.1f}  "
        f"near copies {near:.1%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--held-out", type=Path)
    given = parser.parse_args()
    model = load("icons")
    known = TrainingPictures.load(model.path)
    names = sorted({row["name"] for row in known.rows})
    report("made", made(model, names, given.pictures), known)
    if given.held_out:
        report("held out", held_out(given.held_out), known)
