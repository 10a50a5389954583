"""Compare how sfumato and its peers fill large holes in photographs.

    python benchmarks/holes.py CBSD68/ [--pictures 12] [--sheet holes.png]
    python benchmarks/holes.py photo.jpg     # seconds for a box of 20 % of one megapixel

Each photo gets a hole of 20 to 30 % of its area. The shape of the hole alternates between a box,
the outline of a person and a wire fence. PSNR favors a blurred mean, so another measure is used:
the mean squared difference between a window of 7x7 pixels and the nearest window of the known part.
The benchmark divides the mean of this error for windows inside the hole by its mean for windows
outside. A ratio of 1 means that the filling has the texture of the picture; for a blurred filling,
the ratio is far below or above 1.

Peers take part if they are installed: ``pip install --no-deps opencv-python-headless scikit-image
lazy_loader imageio networkx``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sfumato import image
from sfumato.data.photo import Photo
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions

SIDE = 7  # width and height in pixels of the compared windows
# windows sampled inside (and outside) the hole, and known windows to compare them with
INSIDE, KNOWN = 600, 12_000
Pixels = NDArray[np.uint8]
Hidden = NDArray[np.bool_]


def box(wide: int, tall: int, rng: random.Random) -> Hidden:
    """A box of a quarter of the area."""
    hidden = np.zeros((tall, wide), bool)
    left, top = rng.randint(wide // 8, 3 * wide // 8), rng.randint(tall // 8, 3 * tall // 8)
    hidden[top : top + tall // 2, left : left + wide // 2] = True
    return hidden


def person(wide: int, tall: int, rng: random.Random) -> Hidden:
    """The outline of a person in the foreground."""
    canvas = Image.new("1", (wide, tall))
    pen, middle = ImageDraw.Draw(canvas), rng.uniform(0.35, 0.65) * wide
    head, body = 0.13 * tall, 0.19 * tall
    pen.ellipse((middle - head, 0.1 * tall, middle + head, 0.1 * tall + 2 * head), fill=1)
    shoulders = 0.1 * tall + 1.9 * head
    pen.rounded_rectangle((middle - body, shoulders, middle + body, tall), body / 2, fill=1)
    return np.array(canvas)


def fence(wide: int, tall: int, rng: random.Random) -> Hidden:
    """A fence of crossed wires, each 28 pixels wide."""
    canvas = Image.new("1", (wide, tall))
    pen, start = ImageDraw.Draw(canvas), rng.randint(0, 100)
    for at in range(start - tall, wide + tall, 260):
        pen.line([(at, 0), (at + tall, tall)], fill=1, width=28)
        pen.line([(at, tall), (at + tall, 0)], fill=1, width=28)
    return np.array(canvas)


def telea(values: Pixels, hidden: Hidden) -> Pixels:
    """OpenCV's."""
    import cv2

    return cv2.inpaint(values, hidden.astype(np.uint8), 5, cv2.INPAINT_TELEA)


def navier_stokes(values: Pixels, hidden: Hidden) -> Pixels:
    """OpenCV's."""
    import cv2

    return cv2.inpaint(values, hidden.astype(np.uint8), 5, cv2.INPAINT_NS)


def biharmonic(values: Pixels, hidden: Hidden) -> Pixels:
    """Biharmonic inpainting of scikit-image."""
    from skimage.restoration import inpaint_biharmonic

    made = inpaint_biharmonic(values / 255, hidden, channel_axis=2)
    return (255 * made.clip(0, 1)).round().astype(np.uint8)


def ours(engine: str) -> Callable[[Pixels, Hidden], Pixels]:
    """Return the filling function of one of sfumato's engines."""
    networks = RestorationNetworks()

    def fill(values: Pixels, hidden: Hidden) -> Pixels:
        path = Path("hidden.mask.png")
        Image.fromarray(hidden).save(path)
        options = RestoreOptions(fill=str(path), engine=engine)
        made = restore(Photo(values), options, networks).photo.values
        path.unlink()
        return made

    return fill


METHODS = {
    "sfumato": ours("auto"),
    "sfumato, network alone": ours("network"),
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "biharmonic": biharmonic,
}


def windows(values: Pixels, places: NDArray[np.int64]) -> torch.Tensor:
    """The windows around some places (N, 2), as rows."""
    side = np.arange(SIDE) - SIDE // 2
    rows = places[:, 0, None, None] + side[:, None]
    columns = places[:, 1, None, None] + side[None]
    return torch.from_numpy(values[rows, columns].reshape(len(places), -1).astype(np.float32))


def texture(made: Pixels, hidden: Hidden) -> float:
    """Return the error of the nearest known window: inside the hole divided by outside."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    rim = SIDE // 2
    inner = np.zeros_like(hidden)
    inner[rim:-rim, rim:-rim] = True
    inside = np.argwhere(ndimage.binary_erosion(hidden, np.ones((SIDE, SIDE))) & inner)
    known = np.argwhere(~ndimage.binary_dilation(hidden, np.ones((SIDE, SIDE))) & inner)
    known = rng.permutation(known)
    held, outside = known[:KNOWN], known[KNOWN : KNOWN + INSIDE]
    inside = rng.permutation(inside)[:INSIDE]
    kept = windows(made, held)
    errors = []
    for places in (inside, outside):
        apart = torch.cdist(windows(made, places), kept)
        # do not compare a window with overlapping windows, which are shifted copies of it
        near = np.abs(places[:, None] - held[None]).max(axis=2) < SIDE
        apart[torch.from_numpy(near)] = torch.inf
        errors.append(float(apart.min(dim=1).values.square().mean()))
    return errors[0] / errors[1]


def speed(path: Path) -> None:
    """Print the seconds in which a box of 20 % is filled, in a photo resized to one megapixel."""
    picture = image.read(path)
    scale = (1e6 / (picture.width * picture.height)) ** 0.5
    values = np.asarray(
        picture.resize((round(picture.width * scale), round(picture.height * scale)))
    )
    (tall, wide), side = values.shape[:2], 0.2**0.5
    hole = wide // 4, tall // 4, round(side * wide), round(side * tall)
    options, networks, seconds = RestoreOptions(fill_box=hole), RestorationNetworks(), []
    for _ in range(3):
        start = time.perf_counter()
        restore(Photo(values), options, networks)
        seconds.append(time.perf_counter() - start)
    print(
        f"{wide}x{tall} pixels, {torch.get_num_threads()} threads: "
        f"{statistics.median(seconds):.1f} s ({', '.join(f'{s:.1f}' for s in seconds)})"
    )


def main() -> None:
    """Run the comparison and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument(
        "--sheet", type=Path, help="file for a sheet with all fillings side by side"
    )
    given = parser.parse_args()
    if given.source.is_file():
        speed(given.source)
        return
    paths = sorted(given.source.iterdir())
    chosen = paths[:: len(paths) // given.pictures][: given.pictures]
    ratios: dict[str, list[float]] = {name: [] for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    shown = []
    for k, path in enumerate(chosen):
        values = np.asarray(image.read(path))
        shape = (box, person, fence)[k % 3]
        hidden = shape(values.shape[1], values.shape[0], random.Random(k))
        row = [Image.fromarray(np.where(hidden[..., None], 255, values).astype(np.uint8))]
        for name, method in METHODS.items():
            start = time.perf_counter()
            try:
                made = method(values, hidden)
            except ImportError:
                continue
            seconds[name].append(time.perf_counter() - start)
            ratios[name].append(texture(made, hidden))
            row.append(Image.fromarray(made))
        shown.append(row)
        told = ", ".join(f"{name} {each[-1]:.2f}" for name, each in ratios.items() if each)
        print(f"{path.name}, {shape.__name__}, {hidden.mean():.0%} hidden: {told}", flush=True)
    print(
        "error of the nearest known window, inside the hole divided by outside (median); seconds "
        "per picture (median)"
    )
    for name, each in ratios.items():
        if each:
            times = statistics.median(seconds[name])
            print(f"{name:24s}{statistics.median(each):8.2f}{times:8.2f}")
    if given.sheet:
        tiles = [image.crop_to(picture, (240, 180)) for row in shown for picture in row]
        image.sheet(tiles, columns=len(shown[0])).save(given.sheet)


if __name__ == "__main__":
    main()
