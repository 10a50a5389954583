"""Measure restoration with the field's standard metrics and conventions.

* Denoising: Gaussian noise is added to values of 0 to 255, without clipping. PSNR is computed over
  all channels. A gray picture has one channel, also if its file has three equal ones.
* Enlarging: pictures are cropped to a multiple of the factor, downsampled with MATLAB's antialiased
  bicubic kernel and rounded to integers. PSNR and SSIM are computed from the luminance Y (BT.601).
  Before that, a border is cropped; its width in pixels is the rounded factor.
* JPEG: pictures are compressed by Pillow. PSNR is computed over all channels.
* Filling: the pixels under a random mask of a given shape are hidden. PSNR is computed over the
  whole picture.
* Coloring: PSNR is computed against the original color picture.

The seeds of the noise and of the masks depend only on the file name. LPIPS (version 0.1, AlexNet)
is computed on whole pictures in color, if it is available.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sfumato import image
from sfumato.corruption.color import Grayscale
from sfumato.corruption.jpeg import JPEG
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.data.photo import Photo
from sfumato.data.samples import Sample, find
from sfumato.denoiser.restorer import restorer_planes
from sfumato.errors import OptionError, PictureError, unknown
from sfumato.metrics import luminance, psnr, ssim
from sfumato.runtime import generator
from sfumato.tasks.evaluate.options import Task
from sfumato.tasks.restore.color import colorize
from sfumato.tasks.restore.options import Only
from sfumato.tasks.restore.stage import Engine, apply_network
from sfumato.types import Progress

ONLY: dict[Task, Only] = {"denoise": "noise", "fill": "gaps", "enlarge": "size"}
WINDOW = 11  # side of the window of SSIM
Method = Callable[["Damaged"], Tensor]
"""Restores a damaged picture to (1, C, H, W) with values 0 to 255."""


@dataclass(frozen=True, eq=False)
class Damaged:
    """A clean picture and its damaged version.

    Attributes
    ----------
    name : str
        File name.
    task : str
    amount : float
        Standard deviation of the noise, enlargement factor, or JPEG quality; 0 for other tasks.
    clean : array, (H, W, C)
        Values 0 to 255.
    y : Tensor, (1, C, h, w)
        The damaged picture on the scale of 0 to 255; hidden pixels are 0 here and False in `known`.
    known : array, (H, W), bool
    """

    name: str
    task: Task
    amount: float
    clean: NDArray[np.float64]
    y: Tensor
    known: NDArray[np.bool_]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.clean.shape[0], self.clean.shape[1]


@dataclass(frozen=True)
class Score:
    """Metrics of one picture: PSNR in dB, SSIM in -1 to 1, and LPIPS, 0 for equal pictures.

    ``name`` is the file name; ``lpips`` is None if LPIPS is not available.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None = None


def restore(
    source: Path,
    task: Task,
    amount: float | str | None = None,
    *,
    gray: bool = False,
    method: str = "trained",
    engine: Engine | None = None,
    left_out: Callable[[str], None] | None = None,
) -> Iterator[Progress | Score]:
    """Damage each picture of a folder, restore it, and measure the result.

    Yield the progress before each picture, and then its score.

    Parameters
    ----------
    source : Path
        Folder of pictures, ``.parquet`` or ``.tar`` file.
    task : {"denoise", "enlarge", "dejpeg", "fill", "colorize"}
    amount : float or str
        Standard deviation of the noise for values of 0 to 255; enlargement factor, 1.5 to 8; JPEG
        quality, 1 to 100; or the shape of the hidden pixels: "text", "scratches", "boxes" or
        "pixels". None for "colorize".
    gray : bool
        Convert the pictures to gray first.
    method : str, optional
        ``trained``, ``ensemble`` (the mean over the eight rotations and flips), or a baseline:
        ``bicubic`` for ``enlarge``, and ``input`` (the damaged picture) for the other tasks. The
        baselines have published figures, with which you can check the metric.
    engine : Engine, optional
        The networks; needed for ``trained`` and ``ensemble``.
    left_out : callable, optional
        Called with a sentence for each picture that cannot be read or is too small.

    Raises
    ------
    OptionError
        For an amount out of range, or a method that does not belong to the task.
    PictureError
        For a picture that cannot be read or is too small, if `left_out` is None.
    DataError
        If the source holds no pictures.
    """
    methods: dict[str, Method] = (
        {"bicubic": lambda d: interpolate(d.y, d.size)}
        if task == "enlarge"
        else {"input": lambda d: d.y}
    )
    if engine is not None:
        methods |= {
            "trained": lambda d: trained(d, engine),
            "ensemble": lambda d: trained(d, engine, ensemble=True),
        }
    if method not in methods:
        raise unknown(f"method to {task}", method, methods)
    samples = find(source)
    damage = damager(task, amount, gray=gray)
    for done, sample in enumerate(samples):
        yield Progress("evaluating", done, len(samples))
        try:
            damaged = damage(sample)
        except PictureError as error:
            if left_out is None:
                raise
            left_out(str(error))
            continue
        yield score(damaged, methods[method](damaged))


def damage(
    source: Path, task: Task, amount: float | str | None = None, *, gray: bool = False
) -> Iterator[Damaged]:
    """Yield the clean and the damaged version of each picture of a folder."""
    return map(damager(task, amount, gray=gray), find(source))


def damager(
    task: Task, amount: float | str | None = None, *, gray: bool = False
) -> Callable[[Sample], Damaged]:
    """Return a function that reads and damages a sample.

    The damage of a sample is the same at every call. The returned function raises PictureError for
    a picture that cannot be read, is too small, or has no color to restore.

    Raises
    ------
    OptionError
        For an amount out of range.
    """
    if task == "fill" and amount not in SHAPES:
        raise unknown("shape to fill", str(amount), SHAPES)
    number = _number(task, amount)
    if task == "colorize" and gray:
        raise OptionError("--colorize needs pictures in color: leave --gray out")
    if task == "denoise" and not 0 < number <= 255:
        raise OptionError(f"sigma must be above 0 and at most 255, not {number:g}")
    if task == "enlarge":
        Downscale(number)  # refuses an invalid factor
    if task == "dejpeg":
        JPEG(int(number), int(number))

    def damaged(sample: Sample) -> Damaged:
        picture = _read(sample, number if task == "enlarge" else 1.0)
        values = np.asarray(picture.convert("L") if gray else picture, np.float64)
        if values.ndim == 3 and (values == values[..., :1]).all():
            if task == "colorize":
                raise PictureError(f"{sample.name}: it has no color to restore")
            values = values[..., :1]  # noise must not be independent in three equal channels
        try:
            return spoil(sample.name, values, task, amount)
        except OptionError as error:  # too small for the damage
            raise PictureError(f"{sample.name}: {error}") from None

    return damaged


def _read(sample: Sample, factor: float) -> Image.Image:
    """Read a picture that is large enough to be measured after enlarging by a factor."""
    try:
        picture = image.read(sample.read())
    except PictureError as error:
        raise PictureError(f"{sample.name}: {error}") from None
    border = round(factor) if factor > 1 else 0
    if _multiple(min(picture.size), factor) - 2 * border < WINDOW:
        raise PictureError(
            f"{sample.name} has {picture.width}x{picture.height} pixels: too few to measure SSIM"
        )
    return picture


def _multiple(side: int, factor: float) -> int:
    """Crop a side so that it can be shrunk by a factor and enlarged again."""
    return int(int(side / factor) * factor)


def _number(task: Task, amount: float | str | None) -> float:
    """The amount as a number; 0 for tasks without one."""
    return float(amount or 0) if task in ("denoise", "enlarge", "dejpeg") else 0.0


def spoil(name: str, clean: NDArray[np.float64], task: Task, amount: float | str | None) -> Damaged:
    """Damage a picture (H, W[, C]) with values 0 to 255; equal names give equal damage."""
    number = _number(task, amount)
    clean = clean if clean.ndim == 3 else clean[..., None]
    if task == "enlarge":
        tall, wide = (_multiple(n, number) for n in clean.shape[:2])
        clean = clean[:tall, :wide]
    x = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None]
    known = np.ones(clean.shape[:2], bool)
    if task == "denoise":
        x = x + number * torch.randn(
            x.shape, generator=generator("evaluate", name), dtype=torch.float64
        )
    elif task == "enlarge":
        x = Downscale(number).apply(x).round().clamp(0, 255)
    elif task == "dejpeg":
        x = ((JPEG(int(number), int(number))(x / 127.5 - 1).y[:, : x.shape[1]] + 1) * 127.5).round()
    elif task == "fill":
        known = ~SHAPES[str(amount)](
            known.shape, np.random.default_rng(int(generator("fill", name).initial_seed()) % 2**32)
        )
        x = x * torch.from_numpy(known)
    else:
        x = Grayscale().apply(x).round()
    return Damaged(name, task, number, clean, x, known)


def trained(damaged: Damaged, engine: Engine, *, ensemble: bool = False) -> Tensor:
    """Restore a damaged picture with the trained networks.

    Return (1, C, H, W) with values 0 to 255; see :func:`sfumato.tasks.restore.stage.apply_network`.
    """
    x = (damaged.y / 127.5 - 1).float()
    if damaged.task == "colorize":
        gray = Photo(damaged.y[0].permute(1, 2, 0).numpy().astype(np.uint8))
        return torch.from_numpy(
            colorize(gray, (), 1.0, engine.colors).values.astype(np.float64)
        ).permute(2, 0, 1)[None]
    if damaged.task == "enlarge":
        x = interpolate(x, damaged.size)
    known = torch.from_numpy(damaged.known).float()[None, None]
    detail = 1 / damaged.amount if damaged.task == "enlarge" else 1.0
    quality = damaged.amount / 100 if damaged.task == "dejpeg" else 1.0
    planes = restorer_planes(known, detail=detail, quality=quality)
    level = damaged.amount / 127.5 if damaged.task == "denoise" else 0.0
    only = ONLY.get(damaged.task)
    made = apply_network(
        engine, x.expand(-1, 3, -1, -1) * known, planes, level, only, ensemble=ensemble
    )
    made = Grayscale().apply(made) if x.shape[1] == 1 else made
    made = (made.double() + 1) * 127.5
    return (
        torch.where(known.bool(), damaged.y, made.round().clamp(0, 255))
        if damaged.task == "fill"
        else made
    )


def score(damaged: Damaged, made: Tensor) -> Score:
    """Measure a result by the conventions of the task."""
    out, clean, border = made[0].permute(1, 2, 0).numpy(), damaged.clean, 0
    measure = lpips()
    far = measure(out, clean) if measure else None
    if damaged.task == "enlarge":
        border = round(damaged.amount)
        gray = (clean == clean[..., :1]).all()  # a gray picture is its own luminance
        out, clean = ((x[..., 0] if gray else luminance(x)) for x in (out.clip(0, 255), clean))
    if damaged.task == "colorize" and out.shape[2] == 1:
        out = np.repeat(out, 3, axis=2)
    return Score(damaged.name, psnr(out, clean, border), ssim(out, clean, border), far)


@functools.cache
def lpips() -> Callable[[NDArray[np.float64], NDArray[np.float64]], float] | None:
    """Return the LPIPS metric of Zhang et al. 2018 (arXiv:1801.03924), if available.

    The metric compares pictures (H, W, C) with values 0 to 255; it is 0 for equal pictures.

    The result is None unless the package ``lpips`` is installed and AlexNet's weights are in
    torch's cache. Nothing is downloaded.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    try:
        from lpips import LPIPS
    except (ImportError, RuntimeError):  # RuntimeError: torchvision does not match torch
        return None
    if not weights.exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses a deprecated interface of torchvision
        network = LPIPS(net="alex", verbose=False)

    def frame(x: NDArray[np.float64]) -> Tensor:
        rgb = np.broadcast_to(x.clip(0, 255), (*x.shape[:2], 3))
        return torch.from_numpy(rgb / 127.5 - 1).float().permute(2, 0, 1)[None]

    @torch.no_grad()
    def measure(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(network(frame(a), frame(b)))

    return measure


def _pixels(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hide four pixels in five, at random."""
    return rng.random(size) < 0.8


def _boxes(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hide squares of 32x32 pixels: six, or as many as fit."""
    hidden = np.zeros(size, bool)
    cells = [(y, x) for y in range(16, size[0] - 48, 64) for x in range(16, size[1] - 48, 64)]
    if not cells:
        raise OptionError(
            f"a picture of {size[1]}x{size[0]} pixels has no room for boxes of 32x32; 65x65 are "
            "needed"
        )
    for k in rng.permutation(len(cells))[:6]:
        y, x = cells[k] + rng.integers(-12, 13, 2)
        hidden[y : y + 32, x : x + 32] = True
    return hidden


def _scratches(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hide twelve bent lines, two to four pixels wide, from the top to the bottom."""
    canvas = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for _ in range(12):
        x = rng.uniform(-0.2, 1.2, 3) * size[1]
        pen.line(
            [(float(x[0]), 0.0), (float(x[1]), size[0] / 2), (float(x[2]), float(size[0]))],
            fill=255,
            width=int(rng.integers(2, 5)),
        )
    return np.asarray(canvas) > 0


def _text(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hide lines of text over the whole picture, in letters of 18 pixels."""
    canvas = Image.new("L", (size[1], size[0]))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(18)
    words = "smoke fades where light and shadow meet without a line".split()
    for y in range(4, size[0], 30):
        pen.text((4, y), " ".join(rng.choice(words, 24)), fill=255, font=font)
    return np.asarray(canvas) > 127


SHAPES: dict[str, Callable[[tuple[int, ...], np.random.Generator], NDArray[np.bool_]]] = {
    "text": _text,
    "scratches": _scratches,
    "boxes": _boxes,
    "pixels": _pixels,
}
