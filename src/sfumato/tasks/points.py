"""Diffusion models of points on a plane: the whole method, small enough to watch each step.

The objective, preconditioning, guidance and samplers are those used for pictures; the network is
small, since a point has only two coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import field_validator
from torch import Generator, Tensor, nn

from sfumato.config import Options, option
from sfumato.corruption.noise import DiffusionNoise
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.precondition import Times
from sfumato.errors import OptionError
from sfumato.runtime import seed_generator, seeded
from sfumato.sampler.registry import build, sampler_name
from sfumato.sampler.schedule import initial, karras
from sfumato.train.loop import train
from sfumato.train.loss import denoising_loss
from sfumato.train.settings import TrainSettings
from sfumato.types import Condition, Denoise, Progress, Step

LOW, HIGH = 0.02, 10.0  # lowest and highest noise level, for points with standard deviation 1
# width of the network; number of sines of the noise level, and of each coordinate
WIDTH, WAVES, DETAIL = 128, 16, 3
UNNAMED = 0.15  # share of points that are trained without their class
# number of arrows along each side; distance of the outermost arrows from the center
GRID, REACH = 17, 2.4
MOST = 4000  # points
Point = tuple[float, float, int]


def sensible(points: Sequence[Point]) -> None:
    """Refuse coordinates that are NaN, infinite or too large, and classes other than 1 and 2."""
    for x, y, kind in points:
        if not (math.isfinite(x) and math.isfinite(y) and abs(x) < 1e6 and abs(y) < 1e6):
            raise OptionError(f"the point {x:g}, {y:g} is not on the plane")
        if kind not in (1, 2):
            raise OptionError(f"a point's class is 1 or 2, not {kind}")


class PointsOptions(Options):
    """Points to learn, and options to sample new points.

    Examples
    --------
    >>> PointsOptions(points=[[0, 0, 1], [1, 1, 2]]).follow
    0
    """

    points: tuple[Point, ...] = option(
        ..., "x, y and class (1 or 2) of each point.", min_length=2, max_length=MOST
    )
    training: int = option(1500, "Training steps.", ge=1, le=20_000)
    count: int = option(300, "Number of points to sample.", ge=1, le=2000)
    steps: int = option(20, "Sampler steps.", ge=1, le=200)
    sampler: str = option("dpmpp_2m", "Sampler, as for create.")
    follow: int = option(0, "Class of the sampled points: 1 or 2; 0 for both.", ge=0, le=2)
    guidance_scale: float = option(
        1.0, "How closely to follow the class; 1 turns guidance off.", ge=0, le=20
    )
    seed: int = option(0, "Seed of training and sampling.", ge=0, lt=2**32)

    @field_validator("points")
    @classmethod
    def _sensible(cls, points: Any) -> Any:
        sensible(points)
        return points

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, name: str) -> str:
        return sampler_name(name)


@dataclass(frozen=True)
class Walks:
    """The trajectories of sampled points, in the coordinates of the given points.

    Attributes
    ----------
    loss : float
        Moving average of the loss at the end of training.
    sigmas : list of float
        Noise level before each step and after the last.
    paths : Tensor, (S + 1, N, 2)
        Points before each step and at the end. Noisy points are scaled down to the spread of the
        given points.
    grid : Tensor, (G, 2)
        Positions from which arrows point to the denoised estimates.
    guesses : Tensor, (S, G, 2)
        Denoised estimate for each position of the grid, at the noise level before each step.
    """

    loss: float
    sigmas: list[float]
    paths: Tensor
    grid: Tensor
    guesses: Tensor


class PointNetwork(nn.Module):
    """A network for points (B, 2, 1, 1).

    The condition's vector holds the class (1 or 2), or 0 for no class. The network also gets sines
    and cosines of the coordinates, without which it learns narrow shapes slowly (Tancik et al.
    2020, arXiv:2006.10739).
    """

    rates: Tensor
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, WIDTH)
        self.enter = nn.Linear(2 + 4 * DETAIL + 2 * WAVES, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.leave = nn.Linear(WIDTH, 2)
        self.register_buffer("rates", 2 ** torch.linspace(0, 5, WAVES), persistent=False)
        self.register_buffer("frequencies", 2.0 ** torch.arange(DETAIL), persistent=False)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """(B, 2, 1, 1), (B,), condition -> (B, 2, 1, 1)."""
        points = x.flatten(1)
        turned = (points[:, :, None] * self.frequencies).flatten(1)
        waves = torch.cat([turned, c_noise[:, None] * self.rates], dim=1)
        h = self.enter(torch.cat([points, waves.sin(), waves.cos()], dim=1))
        if condition.vector is not None:
            h = h + self.classes(condition.vector[:, 0].long())
        for layer in self.layers:
            h = h + layer(nn.functional.silu(h))
        out: Tensor = self.leave(nn.functional.silu(h))[..., None, None]
        return out


class PointsJob:
    """The denoising objective on points."""

    def __init__(self, points: Tensor, classes: Tensor) -> None:
        self.module = PointNetwork()
        table = torch.logspace(math.log10(LOW), math.log10(HIGH), 1000, dtype=torch.float64)
        self.denoiser = Denoiser(self.module, "edm", Times(table))
        self.corruption = DiffusionNoise(table)
        self.points, self.classes = points, classes
        self.weights = torch.ones(len(points))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss.

        For a random share of the points (`UNNAMED`), the network does not get the class:
        classifier-free guidance needs predictions without a class.
        """
        named = torch.rand(len(rows), generator=random) >= UNNAMED
        condition = Condition(vector=(self.classes[rows] * named)[:, None].float())
        x = self.points[rows][..., None, None]
        return denoising_loss(self.denoiser, x, self.corruption, condition, generator=random)

    def preview(self) -> None:
        """No preview: this job writes no files."""


def sample(
    options: PointsOptions, trained: dict[Any, Any] | None = None
) -> Iterator[Progress | Walks]:
    """Learn points, and sample new points from noise; the last event is the result.

    Parameters
    ----------
    options : PointsOptions
    trained : dict, optional
        Cache of trained networks: a later call with the same points, training steps and seed needs
        no training.
    """
    given = torch.tensor([[x, y] for x, y, _ in options.points], dtype=torch.float32)
    center, spread = given.mean(dim=0), given.std().clamp_min(1e-6)
    classes = torch.tensor([kind for _, _, kind in options.points])
    known = {} if trained is None else trained
    key = options.points, options.training, options.seed
    if key not in known:
        with seeded(options.seed):
            job = PointsJob((given - center) / spread, classes)
        settings = TrainSettings(
            steps=options.training, batch=256, learning_rate=2e-3, warmup=50, ema_decay=0.99,
            seed=options.seed, device="cpu", dtype="float32", cooldown=0.5,
        )  # fmt: skip
        loss = math.nan
        for event in train(job, settings):
            loss = event.loss
            if event.step % 25 == 0 or event.step == event.steps:
                yield Progress("training", event.step, event.steps)
        known[key] = job, loss
    job, loss = known[key]
    paths, sigmas, grid, guesses = _walked(job, options)
    yield Walks(
        loss, sigmas, paths * spread + center, grid * spread + center, guesses * spread + center
    )


@torch.inference_mode()
def _walked(job: PointsJob, options: PointsOptions) -> tuple[Tensor, list[float], Tensor, Tensor]:
    """Sample points; return paths, noise levels, positions of the arrows, and their targets."""
    count, random = options.count, seed_generator(options.seed)
    sigmas = karras(job.denoiser.times.sigmas, options.steps)
    axis = torch.linspace(-REACH, REACH, GRID)
    grid = torch.cartesian_prod(axis, axis)

    def denoise(many: int) -> Denoise:
        wanted, unnamed = (
            Condition(vector=torch.full((many, 1), float(kind))) for kind in (options.follow, 0)
        )
        scale = options.guidance_scale if options.follow else 1.0
        return guided(job.denoiser, wanted, unnamed, scale)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=random)

    x = initial(noise(torch.empty(count, 2, 1, 1)), float(sigmas[0]))
    arrows = denoise(len(grid))
    paths, guesses = [_seen(x, float(sigmas[0]))], []
    sampler = build(options.sampler, noise, None)
    for step in sampler(denoise(count), x, sigmas):
        paths.append(_after(step, sigmas))
        guesses.append(_guess(arrows, grid, step.sigma))
    return torch.stack(paths), [float(s) for s in sigmas], grid, torch.stack(guesses)


def _after(step: Step, sigmas: Tensor) -> Tensor:
    return _seen(step.x, float(sigmas[step.index + 1]))


def _seen(x: Tensor, sigma: float) -> Tensor:
    """Noisy points as positions (N, 2), scaled to a spread near 1 at every noise level."""
    return x.flatten(1).float() / math.sqrt(1 + sigma**2)


def _guess(denoise: Denoise, grid: Tensor, sigma: float) -> Tensor:
    """Denoised estimates for positions that are scaled as in :func:`_seen`."""
    x = (grid * math.sqrt(1 + sigma**2))[..., None, None]
    out: Tensor = denoise(x, torch.full((len(grid),), sigma)).flatten(1)
    return out
