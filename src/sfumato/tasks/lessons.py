"""Four short experiments for readers without mathematics.

They show PCA and an autoencoder on points, the effect of the loss, the role of labels, and a
denoising autoencoder during training.

Each experiment trains in seconds, with the training loop that all models use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn

from sfumato import image
from sfumato.config import Options, option
from sfumato.errors import OptionError
from sfumato.estimators import PCA
from sfumato.metrics import knn_accuracy, psnr
from sfumato.runtime import seed_generator, seeded
from sfumato.space.autoencoder import Autoencoder, DeepAutoencoder, DeepConfig
from sfumato.tasks.points import REACH, Point, sensible
from sfumato.train.codes import AutoencoderFit
from sfumato.train.loop import Job, train
from sfumato.train.settings import TrainSettings
from sfumato.types import Progress

CURVE = 200  # points along a line or a curve
# position of the outliers, as a share of the distance from the center to a corner of the plane
CORNER = 0.8
BINS = 48  # classes of height, for the cross-entropy loss
ASIDE = 397  # digits held out for measuring; the other 1,400 are for training
DIGITS_PER_ROW = 12  # digits in a row of a picture
WATCHED = 8  # number of pictures shown during training, without the picture of step 1
Lesson = Literal["outliers", "losses", "labels", "denoising"]


class LessonOptions(Options):
    """Which experiment to run, and on which data.

    Examples
    --------
    >>> LessonOptions(lesson="labels").steps
    1000
    """

    lesson: Lesson = option(..., "outliers, losses, labels or denoising.")
    points: tuple[Point, ...] = option(
        (),
        "For outliers and losses: x and y, -2.4 to 2.4, and class, 1 or 2, of each point.",
        max_length=4000,
    )
    outliers: float = option(
        0.05, "Share of the points that become outliers in a corner.", ge=0, le=0.5
    )
    corruption: Literal["noise:100", "mask:0.5", "mask:box:0.25", "down:2"] = option(
        "noise:100", "For denoising: the corruption of the digits."
    )
    steps: int = option(1000, "Training steps.", ge=1, le=10_000)
    seed: int = option(0, "Seed of weights and batches.", ge=0, lt=2**32)

    def model_post_init(self, context: Any) -> None:
        """Check the points; the lessons ``outliers`` and ``losses`` need at least 8."""
        sensible(self.points)
        if self.lesson in ("outliers", "losses") and len(self.points) < 8:
            raise OptionError("draw at least 8 points first")


@dataclass(frozen=True)
class Learned:
    """The result of an experiment: numbers for a plot and, for `denoising`, a picture.

    Attributes
    ----------
    about : dict
        Numbers for the plot, for JSON; the keys depend on the lesson.
    picture : PIL.Image.Image, optional
        Three rows of digits: original, damaged and restored.
    final : bool
        False for a result during training.
    """

    about: dict[str, Any]
    picture: Image.Image | None = None
    final: bool = True


def lesson(options: LessonOptions) -> Iterator[Progress | Learned]:
    """Run an experiment; the last event is its result.

    Examples
    --------
    >>> points = [(t / 20, t / 20, 1) for t in range(20)]
    >>> *_, end = lesson(LessonOptions(lesson="outliers", points=points, steps=2))
    >>> end.about["pca"]["clean"]["error"] < 1e-9  # the points lie on a line
    True
    """
    match options.lesson:
        case "outliers":
            yield from _outliers(options)
        case "losses":
            yield from _losses(options)
        case "labels":
            yield from _labels(options)
        case "denoising":
            yield from _denoising(options)


def _settings(options: LessonOptions) -> TrainSettings:
    return TrainSettings(
        steps=options.steps, batch=128, learning_rate=2e-3, warmup=50, cooldown=0.6, ema_decay=0,
        weight_decay=0, seed=options.seed, device="cpu", dtype="float32",
    )  # fmt: skip


def _trained(
    job: Job, options: LessonOptions, what: str, part: int, parts: int
) -> Iterator[Progress]:
    """Train, and yield progress; this is training number ``part`` of ``parts``, from 0."""
    for event in train(job, _settings(options)):
        if event.step % 50 == 0 or event.step == event.steps:
            done = part * event.steps + event.step
            yield Progress(what, done, parts * event.steps)


def _autoencoder(
    rows: NDArray[np.float32], shape: tuple[int, int, int], layers: tuple[int, ...], codes: int,
    options: LessonOptions, corruption: str = "none",
) -> AutoencoderFit:  # fmt: skip
    """A new autoencoder for rows (N, d) in [-1, 1], with its training objective."""
    with seeded(options.seed):
        space = DeepAutoencoder(DeepConfig(shape=shape, layers=layers, codes=codes))
    held = torch.from_numpy(rows)
    job = AutoencoderFit(space, lambda k: held[k], len(rows), corruption=corruption)
    job.fit_normalization()
    return job


# ---- PCA and an autoencoder with codes of length 1
def _outliers(options: LessonOptions) -> Iterator[Progress | Learned]:
    """Reduce points to codes of length 1 with PCA and an autoencoder, without and with outliers."""
    points = np.array([[x, y] for x, y, _ in options.points], np.float32) / REACH
    random = np.random.default_rng(options.seed)
    spoiled = points.copy()
    far = random.permutation(len(points))[: math.ceil(len(points) * options.outliers)]
    spoiled[far] = random.normal(CORNER, 0.06, (len(far), 2))
    about: dict[str, Any] = {"outliers": _places(spoiled[far]), "pca": {}, "autoencoder": {}}
    kinds = {"clean": points, "spoiled": spoiled}
    for part, (kind, rows) in enumerate(kinds.items()):
        pca = PCA(1).fit(rows)
        about["pca"][kind] = _drawn_through(rows, points, pca.transform, pca.inverse_transform)
        job = _autoencoder(rows, (1, 1, 2), (48, 48), 1, options)
        yield from _trained(job, options, "training the autoencoder", part, len(kinds))
        encode, decode = _as_arrays(job.module)
        about["autoencoder"][kind] = _drawn_through(rows, points, encode, decode)
    yield Learned(about)


def _as_arrays(space: Autoencoder) -> tuple[Any, Any]:
    """Encoder and decoder as functions of arrays: rows (N, d) to codes (N, k), and back."""

    @torch.inference_mode()
    def encode(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        z: NDArray[np.float32] = space.encode(torch.from_numpy(rows)[:, None, None]).numpy()
        return z

    @torch.inference_mode()
    def decode(codes: NDArray[np.float32]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = space.decode(torch.from_numpy(codes)).flatten(1).numpy()
        return rows

    return encode, decode


def _drawn_through(
    rows: NDArray[np.float32], clean: NDArray[np.float32], encode: Any, decode: Any
) -> dict[str, Any]:
    """Return a curve decoded from the codes of ``rows``, and the error of the clean points.

    The curve covers the range of the codes. The error is the mean squared reconstruction error.
    """
    codes = encode(rows)
    along = np.linspace(codes.min(), codes.max(), CURVE, dtype=np.float32)[:, None]
    error = REACH**2 * float(np.square(decode(encode(clean)) - clean).sum(axis=1).mean())
    return {"curve": _places(decode(along)), "error": error}


def _places(rows: NDArray[np.float32]) -> list[list[float]]:
    return [[round(REACH * float(x), 3), round(REACH * float(y), 3)] for x, y in rows]


# ---- three losses: predict the height of a point
def _squared(out: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out[:, 0], y)


def _absolute(out: Tensor, y: Tensor) -> Tensor:
    return F.l1_loss(out[:, 0], y)


def _likeliest(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, ((y + 1) / 2 * BINS).long().clamp(0, BINS - 1))


LOSSES = {"squared": _squared, "absolute": _absolute, "classes": _likeliest}


class _HeightJob:
    """A network that predicts the y of a point from its x."""

    def __init__(self, points: Tensor, loss: str) -> None:
        self.points, self.measure = points, LOSSES[loss]
        out = BINS if loss == "classes" else 1
        first = nn.Linear(1, 96)
        nn.init.normal_(first.weight, std=4)  # steep enough for hand-drawn points
        deeper = [nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, out)]
        self.module = nn.Sequential(first, *deeper)
        self.weights = torch.ones(len(points))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss over the rows."""
        x, y = self.points[rows].unbind(dim=1)
        return self.measure(self.module(x[:, None]), y)

    def preview(self) -> None:
        """No preview: this job writes no files."""

    @torch.inference_mode()
    def outputs(self, x: Tensor) -> Tensor:
        """The predicted heights.

        With the ``classes`` loss, the network chooses among intervals of height, and each predicted
        height is the middle of the likeliest interval.
        """
        out: Tensor = self.module(x[:, None])
        if out.shape[1] == 1:
            return out[:, 0]
        return (out.argmax(dim=1) + 0.5) / BINS * 2 - 1


def _losses(options: LessonOptions) -> Iterator[Progress | Learned]:
    """Train the same network with three losses: for the mean, median and likeliest height."""
    points = torch.tensor([[x, y] for x, y, _ in options.points]) / REACH
    x = torch.linspace(float(points[:, 0].min()), float(points[:, 0].max()), CURVE)
    curves = {}
    for part, loss in enumerate(LOSSES):
        with seeded(options.seed):
            job = _HeightJob(points, loss)
        yield from _trained(job, options, f"training with the {loss} loss", part, len(LOSSES))
        curves[loss] = _places(torch.stack([x, job.outputs(x)], dim=1).numpy())
    yield Learned({"curves": curves})


# ---- digits
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scikit-learn's 1,797 digits as rows (N, 64) in [-1, 1], and their labels."""
    digits = load_digits()
    return (digits.data / 8 - 1).astype(np.float32), digits.target


def _labels(options: LessonOptions) -> Iterator[Progress | Learned]:
    """Train two autoencoders, and classify their codes: with true and with shuffled labels.

    Training uses no labels, so both autoencoders have the same codes.
    """
    rows, labels = _digits()
    drawn = np.random.default_rng(options.seed).permutation(labels)
    codes = []
    for part in range(2):
        job = _autoencoder(rows[:-ASIDE], (1, 8, 8), (128, 64), 2, options)
        yield from _trained(job, options, "training the autoencoder", part, 2)
        with torch.inference_mode():
            codes.append(job.module.encode(torch.from_numpy(rows).reshape(-1, 1, 8, 8)).numpy())
    accuracy = {
        name: knn_accuracy(z[:-ASIDE], known[:-ASIDE], z[-ASIDE:], known[-ASIDE:], 7)
        for name, z, known in (("true", codes[0], labels), ("drawn", codes[1], drawn))
    }
    spread = np.abs(codes[0]).max(axis=0)
    yield Learned(
        {
            "equal": bool(np.array_equal(codes[0], codes[1])),
            "accuracy": accuracy,
            "map": (codes[0] / spread).round(3).tolist(),
            "labels": {"true": labels.tolist(), "drawn": drawn.tolist()},
        }
    )


def _denoising(options: LessonOptions) -> Iterator[Progress | Learned]:
    """Train a denoising autoencoder; yield restored held-out digits during training."""
    rows, _ = _digits()
    job = _autoencoder(rows[:-ASIDE], (1, 8, 8), (256,), 64, options, options.corruption)
    clean = torch.from_numpy(rows[-ASIDE:]).reshape(-1, 1, 8, 8)
    damaged = job.damage(clean, generator=seed_generator(options.seed)).y
    moments = {1, *np.geomspace(10, options.steps, WATCHED).round().astype(int).tolist()}
    for event in train(job, _settings(options)):
        if event.step not in moments:
            continue
        yield Progress("training", event.step, event.steps)
        with torch.inference_mode():
            restored = job.module.decode(job.module.encode(damaged)).clamp(-1, 1)
        before, after = (psnr(*_bytes(y, clean)) for y in (damaged.clamp(-1, 1), restored))
        about = {"step": event.step, "before": round(before, 2), "after": round(after, 2)}
        yield Learned(about, _three(clean, damaged, restored), final=event.step == event.steps)


def _bytes(y: Tensor, x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both batches with values 0 to 255, each joined into one picture."""
    a, b = (127.5 * (t.reshape(-1, 8).double().numpy() + 1) for t in (y, x))
    return a, b


def _three(*kinds: Tensor) -> Image.Image:
    """One row of digits per batch, enlarged for display."""
    shown = torch.cat([kind[:DIGITS_PER_ROW] for kind in kinds])
    return image.sheet(
        image.to_pictures(F.interpolate(shown, scale_factor=8)), columns=DIGITS_PER_ROW
    )
