"""Train a restorer that cleans scanned pages, and compare it with methods without training.

    python recipes/documents-cleanup/run.py dirty_documents.parquet --output build/cleanup

The file has the columns clean, noisy (a list) and split (train, val). The recipe trains on pairs of
pages from train. It prints each method's root mean squared error on the val pages, for values of 0
to 1. It writes the trained model, ``figures.json`` and ``pages.png``. Run the same command again to
resume.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import median_filter

from sfumato.data.photo import Photo
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.train.loop import TrainProgress
from sfumato.train.restoration import train_restorer

Method = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
HERE = Path(__file__).parent


def without_background(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Divide a page by its background: the median around each pixel (a classical method)."""
    background = median_filter(page, size=23).astype(float)
    return (255 * np.clip(page / np.maximum(background, 1), 0, 1)).astype(np.uint8)


def methods(model: Path) -> dict[str, Method]:
    """Return the compared methods by name; OpenCV's methods only if it is installed."""
    engine = RestorationNetworks(model)
    out: dict[str, Method] = {
        "input": lambda p: p,
        "median of 23x23 divided out": without_background,
    }
    try:
        import cv2

        out["OpenCV NL-means (h 30)"] = lambda p: cv2.fastNlMeansDenoising(p, None, 30)
        out["OpenCV adaptive threshold"] = lambda p: cv2.adaptiveThreshold(
            p, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, 31, 25
        )
    except ImportError:
        pass
    out["sfumato"] = lambda p: restore(
        Photo(p[..., None]), RestoreOptions(clean=True), engine
    ).photo.values[..., 0]
    return out


def main(source: Path, folder: Path, steps: int | None) -> None:
    """Train, measure all methods, and write a picture of the pages."""
    table = pq.read_table(source)
    folder.mkdir(parents=True, exist_ok=True)
    train = table.filter(pa.array([s == "train" for s in table["split"].to_pylist()]))
    pq.write_table(train, folder / "train.parquet")
    for event in train_restorer(
        folder / "train.parquet",
        folder / "model",
        None,
        HERE / "cleaner.json",
        {"steps": steps} if steps else {},
    ):
        if isinstance(event, str):
            print(event, flush=True)
        elif isinstance(event, TrainProgress) and event.step % 100 == 0:
            print(f"{event.step} of {event.steps}, {event.seconds_left:.0f} s left", flush=True)
    rows = [r for r in table.to_pylist() if r["split"] == "val"]
    pages = [(_page(r["clean"]), _page(noisy)) for r in rows for noisy in r["noisy"]]
    figures, shown = {}, []
    for name, method in methods(folder / "model").items():
        made = [method(dirty) for _, dirty in pages]
        errors = [
            float(np.sqrt(np.square((a.astype(float) - clean) / 255).mean()))
            for a, (clean, _) in zip(made, pages, strict=True)
        ]
        figures[name] = round(float(np.mean(errors)), 4)
        shown.append(made[0])
        print(f"{figures[name]:.4f}  {name}")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2))
    Image.fromarray(np.concatenate([shown[0], shown[-1], pages[0][0]], axis=1)).save(
        folder / "pages.png"
    )


def _page(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path("build/cleanup"))
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    main(given.source, given.output, given.steps)
