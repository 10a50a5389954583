"""Explain how a model generates pictures from prompts.

:mod:`sfumato.tasks.create.run` does the sampling, and :mod:`sfumato.tasks.explain.trace` records
it. This module adds experiments with the model. It decodes the denoised estimate of each step. It
adds noise to the finished picture and denoises it. It also encodes and decodes the finished picture
with the autoencoder.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import image
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.metrics import psnr
from sfumato.runtime import generator, random_seed
from sfumato.sampler.ode import level
from sfumato.space.kl import AutoencoderKL
from sfumato.space.pixels import Pixels
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.run import SamplerProgress
from sfumato.tasks.explain.runs import record_runs, runs_of
from sfumato.tasks.explain.trace import StepTrace, Trace
from sfumato.types import Condition, Progress

MOST = 6  # pictures on one page
DECODED = ("x", "negative", "positive", "denoised")  # latents of a step that are decoded
# side up to which decoding is fast; for larger pictures only the last of `DECODED` is decoded
SMALL = 128
RIDGE = 1e-3  # ridge penalty of the linear decoder, for latents with standard deviation 1


@dataclass(frozen=True, eq=False)
class DenoisingProbe:
    """The finished picture with noise added, as in training, and the model's denoised estimate.

    Attributes
    ----------
    sigma : float
    noisy, guess : Tensor, (C, h, w)
        Latents with noise of level `sigma`, and their denoised estimate.
    error : float
        Mean squared error of the estimated noise, which is the training loss of an eps network. An
        estimate of zero noise has an error of about 1.
    decoded : dict
        `noisy` and `guess` decoded to pictures, by name; empty for large pictures.
    """

    sigma: float
    noisy: Tensor
    guess: Tensor
    error: float
    decoded: dict[str, Image.Image]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A picture that was encoded and decoded by the autoencoder.

    Attributes
    ----------
    z : Tensor, (C, h, w)
    picture : PIL.Image.Image
    psnr : float
        PSNR of the reconstruction against the original, in dB.
    """

    z: Tensor
    picture: Image.Image
    psnr: float


@dataclass(frozen=True, eq=False)
class Run:
    """One sampling run and the experiments with its picture.

    Attributes
    ----------
    trace : Trace
    decoded : list of dict
        For each step, pictures decoded from the latents named in `DECODED`, by name; empty if
        :func:`explain` was called with ``light``.
    guesses : list of DenoisingProbe
        One for each noise level of the run, the highest first; empty if the run is ``light`` or
        the network has inputs besides the noisy latents.
    reconstruction : Reconstruction, optional
        None without an autoencoder, or if the run is ``light``.
    label : str
        Label to distinguish the run from the others: its prompt, or the changed options.
    """

    trace: Trace
    decoded: list[dict[str, Image.Image]]
    guesses: list[DenoisingProbe]
    reconstruction: Reconstruction | None
    label: str = ""


@dataclass(frozen=True, eq=False)
class Explained:
    """The runs of an explanation, and comparisons between them.

    Attributes
    ----------
    runs : list of Run
        One per prompt and one per change, from the same noise unless the seed is changed.
    model : Model
    """

    runs: list[Run]
    model: Model

    @functools.cached_property
    def linear(self) -> tuple[Tensor, float]:
        """Best linear approximation of the decoder; see :func:`linear_decoder`.

        It is fitted to all decoded estimates and the final pictures.
        """
        if isinstance(self.model.space, Pixels):
            gray = self.model.space.config.latent_channels == 1
            return (torch.tensor([[1.0] * 3, [0.0] * 3]) if gray else torch.eye(4)[:, :3]), 1.0
        z, pictures = [], []
        for run in self.runs:
            z.append(run.trace.steps[-1].after)
            pictures.append(image.flattened(run.trace.made.picture))
            for step, shown in zip(run.trace.steps, run.decoded, strict=False):
                z += [getattr(step, name) for name in shown if name != "x"]
                pictures += [picture for name, picture in shown.items() if name != "x"]
        factor = self.model.space.config.factor
        small = [
            image.crop_to(p, (latent.shape[2] * factor, latent.shape[1] * factor))
            for p, latent in zip(pictures, z, strict=True)
        ]
        return linear_decoder(torch.stack(z), image.to_tensor(small))

    @functools.cached_property
    def apart(self) -> NDArray[np.float64]:
        """Distance of each run's noisy latents from those of the first run: (runs, steps + 1).

        The distance is the root mean square difference of latents scaled to standard deviation 1.
        Runs with different numbers of steps are compared at equal fractions of their steps.
        """
        first, *_ = ways = self._ways()
        count = len(first)
        places = [np.linspace(0, len(way) - 1, count).round().astype(int) for way in ways]
        far = [
            np.square(way[at] - first).mean(axis=1) for way, at in zip(ways, places, strict=True)
        ]
        out: NDArray[np.float64] = np.sqrt(np.stack(far))
        return out

    @functools.cached_property
    def map(self) -> list[NDArray[np.float64]]:
        """Noisy latents on the plane of their first two principal components.

        There is one array (steps + 1, 2) for each run.
        """
        ways = self._ways()
        rows = np.concatenate(ways)
        left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        plane = np.zeros((len(rows), 2))
        plane[:, : len(sizes[:2])] = left[:, :2] * sizes[:2]
        return np.split(plane, np.cumsum([len(way) for way in ways])[:-1])

    def _ways(self) -> list[NDArray[np.float64]]:
        """Latents at every noise level, scaled to unit variance: (steps + 1, values) per run."""
        ways = []
        for run in self.runs:
            traced = run.trace.steps
            states = [step.x / (1 + step.sigma**2) ** 0.5 for step in traced] + [traced[-1].after]
            ways.append(np.stack([s.flatten().double().numpy() for s in states]))
        return ways

    def write(self, path: Path) -> None:
        """Write the page: one HTML file that opens offline."""
        from sfumato.tasks.explain.page import write

        write(self, path)


def explain(
    prompts: str | Sequence[str],
    options: CreateOptions | None = None,
    model: Model | None = None,
    *,
    light: bool = False,
    changes: Sequence[Mapping[str, Any]] = (),
) -> Explained:
    """Generate a picture for each prompt, all from the same noise, and record the runs.

    Parameters
    ----------
    prompts : str or sequence of str
    options : CreateOptions, optional
        As for :func:`sfumato.create`, with one picture per prompt.
    model : Model, optional
    light : bool
        Record only the sampling runs, without decoded estimates and without experiments.
    changes : sequence of mapping
        Additional runs, one per mapping. A mapping holds the options that differ from the run of
        the first prompt, such as ``{"guidance_scale": 1}`` or ``{"then_step": 4, "then": "a
        cat"}``. The key `prompt` changes the prompt.

    Returns
    -------
    Explained
        The runs; its method ``write`` writes the page.

    Raises
    ------
    OptionError
        For more than six pictures, for a change of an option that must be equal in all runs (such
        as the size or the model), and in the same cases as :func:`sfumato.create`.

    Examples
    --------
    >>> shown = explain(["a red apple", "a green apple"], CreateOptions(seed=7, steps=2, best_of=1))
    >>> shown.apart[0].max() == 0, shown.apart[1, -1] > 0.1
    (np.True_, np.True_)
    """
    *_, last = steps(prompts, options, model, light=light, changes=changes)
    assert isinstance(last, Explained)
    return last


def steps(
    prompts: str | Sequence[str],
    options: CreateOptions | None = None,
    model: Model | None = None,
    *,
    light: bool = False,
    changes: Sequence[Mapping[str, Any]] = (),
) -> Iterator[SamplerProgress | Progress | Explained]:
    """As :func:`explain`, but also yield every step; to cancel, stop iterating."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    options = CreateOptions.of(options)
    if not 0 < len(texts) + len(changes) <= MOST:
        raise OptionError(
            f"{len(texts) + len(changes)} pictures were requested, but a page shows 1 to {MOST}"
        )
    model = model or load_model(options)
    if options.seed is None:
        options = options.model_copy(update={"seed": random_seed()})
    asked = runs_of(texts, options, model, changes)
    traces: list[Trace] = []
    for event in record_runs(asked, model):
        if isinstance(event, Trace):
            traces.append(event)
        else:
            yield event
    runs: list[Run] = []
    done, total = 0, sum(len(trace.steps) for trace in traces)
    for trace, one in zip(traces, asked, strict=True):
        decoded: list[dict[str, Image.Image]] = []
        for step in () if light else trace.steps:
            decoded.append(_decoded(_shown(step, model), model))
            done += 1
            yield Progress("decoding", done, total)
        if light:
            runs.append(Run(trace, decoded, [], None, one.label))
        else:
            tried = guesses(trace, model), _reconstruction(trace, model)
            runs.append(Run(trace, decoded, *tried, one.label))
    yield Explained(runs, model)


def _working_size(step: StepTrace, model: Model) -> tuple[int, int]:
    """Width and height at which the model worked; an enlarged picture is larger."""
    tall, wide = step.x.shape[1:]
    return wide * model.space.config.factor, tall * model.space.config.factor


def _shown(step: StepTrace, model: Model) -> dict[str, Tensor]:
    """The latents of a step that are decoded for the page: fewer for large pictures."""
    names = DECODED if max(_working_size(step, model)) <= SMALL else DECODED[-1:]
    found = {name: getattr(step, name) for name in names}
    return {name: latents for name, latents in found.items() if latents is not None}


@torch.inference_mode()
def _decoded(latents: dict[str, Tensor], model: Model) -> dict[str, Image.Image]:
    """Decode latents (C, h, w) to pictures, by name."""
    pixels = [model.space.decode(z[None].to(model.device)).float().cpu() for z in latents.values()]
    return dict(zip(latents, image.to_pictures(torch.cat(pixels)), strict=True))


@torch.inference_mode()
def guesses(trace: Trace, model: Model) -> list[DenoisingProbe]:
    """Add noise to the finished picture at each noise level of its run, and denoise it.

    The noise is the same at all levels. The list is empty if the network has inputs
    besides the noisy latents.
    """
    if model.network.config.in_channels != model.space.config.latent_channels:
        return []
    settings = trace.made.settings
    z = trace.steps[-1].after.to(model.device)[None]
    small = max(_working_size(trace.steps[-1], model)) <= SMALL
    condition, _ = model.text([settings["styled"]], _working_size(trace.steps[-1], model))
    noise = torch.randn(z.shape, generator=generator(settings["seed"], "guess")).to(z)
    out = []
    for step in trace.steps:
        noisy, guess, error = guess_under_noise(z, step.sigma, noise, condition, model)
        found = {name: x[0].float().cpu() for name, x in (("noisy", noisy), ("guess", guess))}
        out.append(
            DenoisingProbe(
                step.sigma, **found, error=error, decoded=_decoded(found, model) if small else {}
            )
        )
    return out


def guess_under_noise(
    z: Tensor, sigma: float, noise: Tensor, condition: Condition, model: Model
) -> tuple[Tensor, Tensor, float]:
    """Add `noise` (standard deviation 1) times `sigma` to clean latents (1, C, h, w), and denoise.

    Returns the noisy latents, the denoised estimate, and the mean squared error of the estimated
    noise ``(noisy - estimate) / sigma``. For comparison: an estimate of zero noise has an error of
    about 1, the variance of the noise.
    """
    noisy = z + sigma * noise
    guess = model.denoiser(noisy, level(sigma, noisy), condition)
    return noisy, guess, float((guess - z).square().mean() / sigma**2)


@torch.inference_mode()
def _reconstruction(trace: Trace, model: Model) -> Reconstruction | None:
    """Encode and decode the finished picture with the autoencoder."""
    if not isinstance(model.space, AutoencoderKL):
        return None
    unit, picture = model.space.config.factor, image.flattened(trace.made.picture)
    # use an enlarged picture at its size before enlarging, a padded picture without padding
    wide, tall = (
        min(made, max(unit, n // unit * unit))
        for made, n in zip(_working_size(trace.steps[-1], model), picture.size, strict=True)
    )
    picture = image.crop_to(picture, (wide, tall))
    z = model.space.encode(image.to_tensor(picture).to(model.device))
    again = image.to_pictures(model.space.decode(z).float().cpu())[0]
    return Reconstruction(
        z[0].float().cpu(),
        again,
        psnr(np.asarray(again, np.float64), np.asarray(picture, np.float64)),
    )


def linear_decoder(z: Tensor, pictures: Tensor) -> tuple[Tensor, float]:
    """Fit a linear decoder: a map from the latents at a position to its patch of pixels.

    Parameters
    ----------
    z : Tensor, (N, C, h, w)
    pictures : Tensor, (N, 3, h f, w f), in [-1, 1]

    Returns
    -------
    map : Tensor, (C + 1, 3 f f)
        Least squares solution with a small ridge penalty; the last row is the constant term.
    share : float
        Share of the pixels' variance that the map explains, at most 1.

    Examples
    --------
    >>> x = torch.rand(2, 3, 4, 4)
    >>> found, share = linear_decoder(x, x)
    >>> bool((found[:3] - torch.eye(3)).abs().max() < 0.05), share > 0.99
    (True, True)
    """
    factor = pictures.shape[-1] // z.shape[-1]
    seen = torch.cat([z, torch.ones_like(z[:, :1])], dim=1).movedim(1, -1).flatten(0, 2).double()
    wanted = (
        torch.nn.functional.pixel_unshuffle(pictures, factor).movedim(1, -1).flatten(0, 2).double()
    )
    weak = RIDGE * len(seen) * torch.eye(seen.shape[1], dtype=torch.float64)
    weak[-1, -1] = 0
    found = torch.linalg.solve(seen.T @ seen + weak, seen.T @ wanted)
    left = (seen @ found - wanted).square().sum() / (
        wanted - wanted.mean(dim=0)
    ).square().sum().clamp_min(1e-12)
    return found.float(), float(1 - left)
