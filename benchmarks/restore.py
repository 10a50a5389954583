"""Compare the restoration of photographs with common tools, on the same damaged pictures.

    python benchmarks/restore.py denoise CBSD68/ [--gray] [--sigma 15 25 50] [--pictures 10]
    python benchmarks/restore.py enlarge Set5/ [--factor 2 3 4]
    python benchmarks/restore.py fill CBSD68/ [--shape text scratches boxes pixels]
    python benchmarks/restore.py dejpeg CBSD68/ [--quality 10 20 40]
    python benchmarks/restore.py colorize CBSD68/
    python benchmarks/restore.py find CBSD68/
    python benchmarks/restore.py together CBSD68/ [--pictures 20]
    python benchmarks/restore.py speed photo.jpg [--megapixels 48]

Peers take part if they are installed, unless --alone is given: ``pip install bm3d
opencv-python-headless scikit-image``. Published figures from the tables of KAIR, DPIR and SwinIR
are printed next to the measured figures.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from sfumato import image
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.data import photo as files
from sfumato.data.photo import Photo
from sfumato.metrics import colorfulness, psnr
from sfumato.tasks.evaluate.restoration import SHAPES, Damaged, damage, score, trained
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions

Method = Callable[[Damaged], Tensor]
PUBLISHED = {
    ("denoise", True): {
        "BM3D": (31.08, 28.57, 25.60),
        "DnCNN": (31.73, 29.23, 26.23),
        "DRUNet": (31.91, 29.48, 26.59),
    },
    ("denoise", False): {
        "CBM3D": (33.52, 30.71, 27.38),
        "DnCNN": (33.90, 31.24, 27.95),
        "DRUNet": (34.30, 31.69, 28.51),
    },
    ("enlarge", False): {
        "bicubic": (33.66, 30.39, 28.42),
        "SRCNN": (36.66, 32.75, 30.48),
        "VDSR": (37.53, 33.66, 31.35),
    },
}


def as_tensor(picture: NDArray[np.float64]) -> Tensor:
    """(H, W) or (H, W, C) -> (1, C, H, W)."""
    return torch.from_numpy(np.atleast_3d(picture).astype(np.float64)).permute(2, 0, 1)[None]


def as_picture(y: Tensor) -> NDArray[np.float64]:
    """(1, C, H, W) -> (H, W) or (H, W, C)."""
    picture = y[0].permute(1, 2, 0).numpy()
    return picture[..., 0] if picture.shape[2] == 1 else picture


def as_bytes(y: Tensor) -> NDArray[np.uint8]:
    """(1, C, H, W) -> (H, W) or (H, W, C) with 8 bits per value."""
    return as_picture(y).round().clip(0, 255).astype(np.uint8)


def peers(task: str) -> dict[str, Method]:
    """Return the installed peers for a task, by name."""
    found: dict[str, Method] = {}
    if task == "denoise":
        try:
            import bm3d

            found["bm3d"] = lambda d: as_tensor(
                (bm3d.bm3d if d.y.shape[1] == 1 else bm3d.bm3d_rgb)(
                    as_picture(d.y) / 255, d.amount / 255
                )
                * 255
            )
        except ImportError:
            print("bm3d is not installed")
        try:
            import cv2

            def means(d: Damaged) -> Tensor:
                if d.y.shape[1] == 1:
                    return as_tensor(cv2.fastNlMeansDenoising(as_bytes(d.y), None, 0.8 * d.amount))
                return as_tensor(
                    cv2.fastNlMeansDenoisingColored(
                        as_bytes(d.y), None, 0.8 * d.amount, 0.8 * d.amount
                    )
                )

            found["OpenCV NL-means"] = means
        except ImportError:
            print("opencv-python-headless is not installed")
    if task == "enlarge":
        found["bicubic"] = lambda d: interpolate(d.y, d.size)
    if task == "fill":
        try:
            import cv2

            def inpaint(flag: int) -> Method:
                return lambda d: as_tensor(
                    cv2.inpaint(as_bytes(d.y), (~d.known).astype(np.uint8), 3, flag)
                )

            found |= {
                "OpenCV Telea": inpaint(cv2.INPAINT_TELEA),
                "OpenCV Navier-Stokes": inpaint(cv2.INPAINT_NS),
            }
        except ImportError:
            print("opencv-python-headless is not installed")
        try:
            from skimage.restoration import inpaint_biharmonic

            found["biharmonic"] = lambda d: as_tensor(
                255 * inpaint_biharmonic(as_picture(d.y) / 255, ~d.known, channel_axis=2).clip(0, 1)
            )
        except ImportError:
            print("scikit-image is not installed")
    if task == "dejpeg":
        found["as it is"] = lambda d: d.y
    if task == "colorize":
        found["gray"] = lambda d: d.y.expand(-1, 3, -1, -1)
    return found


def compare(
    task: str,
    source: Path,
    amounts: list[float | str | None],
    gray: bool,
    pictures: int | None,
    model: Path | None,
    *,
    alone: bool,
) -> None:
    """Print one row per method: mean PSNR at each amount, and seconds per picture."""
    engine = RestorationNetworks(model)
    methods: dict[str, Method] = {"sfumato": lambda d: trained(d, engine)}
    if task != "colorize":
        methods["sfumato --ensemble"] = lambda d: trained(d, engine, ensemble=True)
    methods |= {} if alone else peers(task)
    scores: dict[str, list[float]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for amount in amounts:
        each: dict[str, list[float]] = {name: [] for name in methods}
        color: dict[str, list[float]] = {name: [] for name in methods}
        for k, damaged in enumerate(damage(source, task, amount, gray=gray)):  # type: ignore[arg-type]
            if pictures is not None and k >= pictures:
                break
            for name, method in methods.items():
                start = time.perf_counter()
                made = method(damaged)
                seconds[name].append(time.perf_counter() - start)
                each[name].append(score(damaged, made).psnr)
                if task == "colorize":
                    color[name].append(colorfulness(made[0].permute(1, 2, 0).numpy()))
        for name in methods:
            scores[name].append(statistics.fmean(each[name]))
            if task == "colorize":
                print(f"{name}: colorfulness {statistics.fmean(color[name]):.1f}")
    print(
        f"{task}{' gray' if gray else ''}, {source.name}: PSNR in dB at "
        f"{', '.join(str(a) for a in amounts)}"
    )
    for name in methods:
        print(
            f"{name:24s}"
            + "".join(f"{s:8.2f}" for s in scores[name])
            + f"   {statistics.median(seconds[name]):8.3f} s a picture"
        )
    for name, row in PUBLISHED.get((task, gray), {}).items():
        print(f"{name + ' (published)':24s}" + "".join(f"{s:8.2f}" for s in row))


def scratched(
    print_: np.ndarray, bright: bool, rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """Return a gray print with six scratches of 2 to 5 pixels, and the mask of the scratches."""
    tall, wide = print_.shape
    where = Image.new("L", (wide, tall))
    pen = ImageDraw.Draw(where)
    for _ in range(6):
        x, y, angle = rng.uniform(0, wide), rng.uniform(0, tall), rng.uniform(0, 6.28)
        points = [(x, y)]
        for _ in range(rng.randint(3, 12)):
            angle += rng.gauss(0, 0.15)
            x, y = x + 25 * math.cos(angle), y + 25 * math.sin(angle)
            points.append((x, y))
        pen.line(points, fill=255, width=rng.randint(2, 5), joint="curve")
    hidden = np.asarray(where) > 0
    shade = rng.uniform(200, 250) if bright else rng.uniform(10, 60)
    return np.where(hidden, shade, print_).round().astype(np.uint8), hidden


def find(source: Path, pictures: int | None) -> None:
    """Print the share of drawn scratches that is found on gray prints, and the false positives.

    False positives are pixels away from scratches that are marked as scratches. They are also
    measured on the same prints without drawn scratches.
    """
    engine = RestorationNetworks()
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in image.SUFFIXES)[:pictures]
    found: dict[str, list[tuple[float, float]]] = {"bright": [], "dark": []}
    alone = []
    for k, path in enumerate(paths):
        gray = np.asarray(image.read(path).convert("L"))
        alone.append(masks.scratches(Photo(gray[..., None]), engine.damage).mean())
        for kind, each in found.items():
            values, hidden = scratched(gray, kind == "bright", random.Random(k))
            taken = masks.scratches(Photo(values[..., None]), engine.damage)
            # the found mask is dilated on purpose, so pixels close to a scratch do not count
            far = ndimage.binary_erosion(~hidden, iterations=3, border_value=1)
            each.append((taken[hidden].mean(), taken[far].mean()))
    for kind, each in found.items():
        hit, false = np.mean(each, axis=0)
        print(
            f"{kind} scratches of 2 to 5 pixels, {source.name}, {len(each)} gray prints: "
            f"{hit:.1%} of the scratch pixels found; {false:.2%} of the pixels away from "
            f"scratches marked as scratches"
        )
    print(
        f"the same prints without scratches: {np.mean(alone):.2%} of the pixels marked as "
        f"scratches, {np.max(alone):.2%} on the worst print"
    )


def together(source: Path, pictures: int | None) -> None:
    """Compare two ways to undo several kinds of damage in one picture.

    The first way applies one network per kind of damage, one after the other, as restore does. The
    second way applies one network, `photos`, to all damage at once.
    """
    specialists, at_once = RestorationNetworks(), RestorationNetworks("photos")
    box = {"fill_box": (40, 40, 16, 16)}
    # enlargement factor, standard deviation of the noise, options
    kinds: dict[str, tuple[float, float, dict[str, Any]]] = {
        "box, noise of 15": (1, 15, box),
        "noise of 5, half the size": (2, 5, {}),
        "noise of 15, half the size": (2, 15, {}),
        "box, half the size": (2, 0, box),
        "box, noise of 15, half the size": (2, 15, box),
    }
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for path in sorted(source.iterdir())[:pictures]:
        clean = files.read(path).values[:256, :256]
        for name, (factor, sigma, extra) in kinds.items():
            values = files.Photo(clean).frame()
            if factor > 1:
                values = Downscale(factor).apply(torch.from_numpy(values)[None])[0].numpy()
            values = (values.transpose(1, 2, 0) + 1) * 127.5
            values = (
                (values + np.random.default_rng(0).normal(0, sigma, values.shape))
                .round()
                .clip(0, 255)
                .astype(np.uint8)
            )
            if extra:
                values[40:56, 40:56] = 255
            options = RestoreOptions.build(
                {"denoise": sigma or None, "enlarge": factor if factor > 1 else None, **extra}
            )
            made = [
                restore(Photo(values), options, engine).photo.values
                for engine in (specialists, at_once)
            ]
            scores[name].append(tuple(psnr(m, clean) for m in made))  # type: ignore[arg-type]
    print(
        f"several kinds of damage, {source.name}, crops of 256x256: PSNR in dB, one network per "
        f"kind and one network for all"
    )
    for name, each in scores.items():
        print(f"{name:34s}" + "".join(f"{s:8.2f}" for s in np.mean(each, axis=0)))


def speed(source: Path, model: Path | None, megapixels: float) -> None:
    """Print the seconds and the peak memory of denoising a color photo with sigma 25.

    The photo is repeated to fill the given number of megapixels. Up to one megapixel, bm3d is
    timed, too.
    """
    import resource

    photo, side = files.read(source).values, round(1000 * megapixels**0.5)
    values = np.tile(photo, (-(-side // photo.shape[0]), -(-side // photo.shape[1]), 1))[
        :side, :side
    ]
    rng, noisy = np.random.default_rng(0), values.copy()
    for row in range(side):
        noisy[row] = np.clip(values[row] + rng.normal(0, 25, values[row].shape), 0, 255).round()
    engine, ours = RestorationNetworks(model), []
    for _ in range(3 if megapixels <= 1 else 1):
        start = time.perf_counter()
        restore(Photo(noisy), RestoreOptions(denoise=25.0), engine)
        ours.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"sfumato, {side}x{side}: {statistics.median(ours):.2f} s "
        f"({', '.join(f'{s:.2f}' for s in ours)}), peak {peak:.0f} MB"
    )
    if megapixels > 1:
        return
    try:
        import bm3d
    except ImportError:
        print("bm3d is not installed")
        return
    start = time.perf_counter()
    bm3d.bm3d_rgb(noisy / 255, 25 / 255)
    other = time.perf_counter() - start
    print(f"bm3d: {other:.2f} s, {other / statistics.median(ours):.1f} times the time of sfumato")


def main() -> None:
    """Run the task that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "task",
        choices=[
            "denoise",
            "enlarge",
            "dejpeg",
            "fill",
            "colorize",
            "find",
            "together",
            "speed",
        ],
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--gray", action="store_true")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15.0, 25.0, 50.0])
    parser.add_argument("--factor", type=float, nargs="+", default=[2.0, 3.0, 4.0])
    parser.add_argument("--quality", type=float, nargs="+", default=[10.0, 20.0, 40.0])
    parser.add_argument("--shape", nargs="+", default=list(SHAPES))
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--alone", action="store_true", help="leave the peers out")
    parser.add_argument("--megapixels", type=float, default=1.0)
    given = parser.parse_args()
    if given.task == "speed":
        speed(given.source, given.model, given.megapixels)
    elif given.task == "together":
        together(given.source, given.pictures)
    elif given.task == "find":
        find(given.source, given.pictures)
    else:
        amounts = {
            "denoise": given.sigma,
            "enlarge": given.factor,
            "dejpeg": given.quality,
            "fill": given.shape,
            "colorize": [None],
        }[given.task]
        compare(
            given.task,
            given.source,
            amounts,
            given.gray,
            given.pictures,
            given.model,
            alone=given.alone,
        )


if __name__ == "__main__":
    main()
