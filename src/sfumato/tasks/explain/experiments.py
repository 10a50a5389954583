"""Explain how a model generates pictures from prompts.

:mod:`sfumato.tasks.create.run` does the sampling, and :mod:`sfumato.tasks.explain.trace` records
it. This module adds experiments with the model. It decodes the denoised estimate of each step. It
adds noise to the finished picture and denoises it. It also encodes and decodes the finished picture
with the autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import image
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.metrics import psnr
from sfumato.runtime import generator, random_seed
from sfumato.sampler.ode import level
from sfumato.space.kl import AutoencoderKL
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.run import SamplerProgress
from sfumato.tasks.explain import page
from sfumato.tasks.explain.compared import SMALL, Compared, DenoisingProbe, Reconstruction, Run
from sfumato.tasks.explain.runs import record_runs, runs_of
from sfumato.tasks.explain.trace import StepTrace, Trace
from sfumato.types import Condition, Progress

MOST = 6  # pictures on one page
DECODED = ("x", "negative", "positive", "denoised")  # latents of a step that are decoded


class Explained(Compared):
    """The runs of an explanation, their comparisons, and the page that shows them."""

    def write(self, path: Path) -> None:
        """Write the page: one HTML file that opens offline."""
        page.write(self, path)


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
