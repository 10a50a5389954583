"""Compare the model's upscaler with bicubic interpolation and the network for photos.

    python benchmarks/enlarge.py large.parquet [--pictures 30] [--sheet enlarged.png]

The file holds icons of 256x256 pixels that the upscaler was not trained on; recipes/icons/render.py
renders them from the list of held-out icons. Each icon is shrunk to 64x64 pixels by averaging, and
enlarged again by a factor of 4. The benchmark prints medians: the PSNR of the result compared with
the icon; the root mean square difference between the small picture and the result after shrinking
it again (values of 0 to 255); and the seconds per picture.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sfumato import image
from sfumato.data.photo import Photo
from sfumato.hub.load import load
from sfumato.metrics import psnr
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.enlarge import enlarge
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.run import Restored

FACTOR = 4
Enlarge = Callable[[Image.Image, str], Image.Image]


def methods() -> dict[str, Enlarge]:
    """Return the methods by name; each enlarges a small picture with the given text."""
    model, networks = load("icons"), RestorationNetworks(None, "auto", "auto")
    upscaler = model.upscaler
    assert upscaler is not None

    def ours(small: Image.Image, text: str) -> Image.Image:
        asked = RestoreOptions(enlarge=FACTOR, model="icons", prompt=text, seed=0)
        *_, made = enlarge(Photo(np.asarray(small)), asked, model, upscaler)
        assert isinstance(made, Restored)
        return Image.fromarray(made.photo.values)

    def photos(small: Image.Image, text: str) -> Image.Image:
        found = restore(Photo(np.asarray(small)), RestoreOptions(enlarge=FACTOR), networks)
        return Image.fromarray(found.photo.values)

    def bicubic(small: Image.Image, text: str) -> Image.Image:
        size = small.width * FACTOR, small.height * FACTOR
        return small.resize(size, Image.Resampling.BICUBIC)

    return {"upscaler": ours, "bicubic": bicubic, "size": photos}


def shrunk(large: Image.Image) -> Image.Image:
    """Shrink a picture to a quarter of its width and height by averaging."""
    size = large.width // FACTOR, large.height // FACTOR
    return large.resize(size, Image.Resampling.BOX)


def main(path: Path, count: int, sheet: Path | None) -> None:
    """Enlarge some pictures with each method and print the medians."""
    rows = random.Random(0).sample(pq.read_table(path).to_pylist(), count)
    ways, tiles, key = methods(), [], []
    told: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for row in rows:
        true = Image.open(io.BytesIO(row["image"])).convert("RGB")
        small, made = shrunk(true), {}
        for name, way in ways.items():
            started = time.perf_counter()
            made[name] = way(small, row["text"][0])
            seconds = time.perf_counter() - started
            a, b, again = (np.asarray(p, float) for p in (made[name], true, shrunk(made[name])))
            off = float(np.sqrt(np.square(again - np.asarray(small, float)).mean()))
            told[name].append((psnr(a, b), off, seconds))
        order = random.Random(row["id"]).sample(sorted(made), len(made))
        key.append({"id": row["id"], "order": order})
        tiles += [small.resize(true.size, Image.Resampling.NEAREST), *(made[n] for n in order)]
    for name, figures in told.items():
        quality, off, seconds = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{name:9} PSNR {quality:5.2f} dB  shrunk again {off:4.2f}  {seconds:5.2f} s")
    if sheet:  # the order of the methods differs between pictures, for a blind comparison
        image.sheet(tiles, columns=1 + len(ways)).save(sheet)
        sheet.with_suffix(".json").write_text(json.dumps(key, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("icons", type=Path)
    parser.add_argument("--pictures", type=int, default=30)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    main(given.icons, given.pictures, given.sheet)
