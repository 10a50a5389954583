"""Experiments with the user's own picture.

There are two kinds of experiments. Either the picture is encoded and decoded, with or without
changes to the channels of its code; then noise of several levels is added to the code, and the
model denoises it. Or the picture is damaged, and a restoration network restores it.

Restoring generalizes denoising to other corruptions. The damaged picture is a measurement ``y = A
x`` of the original picture ``x``, where the operator ``A`` is the corruption. A restored picture
``D(y)`` agrees with the measurement if ``A D(y) = y``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from sfumato import image
from sfumato.config import Options, option
from sfumato.corruption.color import Grayscale
from sfumato.corruption.jpeg import JPEG
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.metrics import psnr
from sfumato.runtime import seed_generator
from sfumato.space.kl import AutoencoderKL
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import make_plan
from sfumato.tasks.evaluate.options import Task
from sfumato.tasks.evaluate.restoration import Damaged, spoil, trained
from sfumato.tasks.explain.experiments import guess_under_noise
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.types import Progress

SMALLEST, LARGEST = 16, 512  # sides of a picture that is damaged and restored
AMPLIFIED = 4  # factor by which differences are amplified in pictures
Factor = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Damage = Literal["noise", "hole", "color", "size", "jpeg"]
DAMAGES: dict[Damage, tuple[Task, float | str | None]] = {
    "noise": ("denoise", 50.0),
    "hole": ("fill", "text"),
    "color": ("colorize", None),
    "size": ("enlarge", 4.0),
    "jpeg": ("dejpeg", 10.0),
}


class ProbeOptions(Options):
    """Which experiments to run on a picture.

    Examples
    --------
    >>> ProbeOptions(levels=4).damage is None
    True
    """

    prompt: str = option("", "Prompt: what the picture shows.")
    levels: int = option(
        8,
        "Number of noise levels to try: the levels of a sampling run with this many steps.",
        ge=0,
        le=30,
    )
    channels: tuple[Factor, ...] = option(
        (), "Factor for each channel of the code before decoding.", max_length=64
    )
    damage: Damage | None = option(
        None, "Damage the picture and restore it: noise, hole, color, size or jpeg."
    )
    seed: int = option(0, "Seed of the noise.", ge=0, lt=2**32)


@dataclass(frozen=True)
class Shown:
    """A picture that an experiment shows.

    Attributes
    ----------
    what : str
        "picture" (the input), "decoded", "channel" (contribution of one channel), "changed"
        (decoded after the channels were multiplied by factors), "noisy", "guess" (the estimate of
        the clean picture). If a damage is requested: "picture", "measured" (damaged), "restored",
        "difference" (between "measured" and the restored picture, damaged again).
    picture : PIL.Image.Image
    about : dict
        Numbers about the picture, such as ``sigma`` or ``psnr``, for JSON.
    """

    what: str
    picture: Image.Image
    about: dict[str, Any] = field(default_factory=dict)


def probe(
    picture: Image.Image, options: ProbeOptions, model: Model | None = None
) -> Iterator[Progress | Shown]:
    """Run experiments with a model on a picture, or damage the picture and restore it.

    Parameters
    ----------
    picture : PIL.Image.Image
    options : ProbeOptions
    model : Model, optional
        A diffusion model; the picture is cropped to its size. The model is required, unless
        ``options.damage`` is given.

    Yields
    ------
    Progress or Shown

    Raises
    ------
    OptionError
        If `channels` has a wrong number of factors; if `channels` is given and the model has no
        autoencoder; if `levels` is above 0 and the network has inputs besides the noisy latents; or
        if the picture is too small to be damaged.

    Examples
    --------
    >>> from sfumato.tasks.create.plan import load_model
    >>> red = Image.new("RGB", (80, 60), "red")
    >>> tried = probe(red, ProbeOptions(levels=1), load_model(CreateOptions()))
    >>> {event.what for event in tried if isinstance(event, Shown)} >= {"decoded", "noisy", "guess"}
    True
    """
    if options.damage is not None:
        yield from _restored(picture, options.damage)
        return
    assert model is not None
    if options.levels and model.network.config.in_channels != model.space.config.latent_channels:
        raise OptionError(f"{model.name} needs more inputs than noisy latents")
    if options.channels and not isinstance(model.space, AutoencoderKL):
        raise OptionError(f"{model.name} has no autoencoder whose channels could be changed")
    picture = image.crop_to(image.flattened(picture), model.size)
    yield Shown("picture", picture)
    x = image.to_tensor(picture).to(model.device)
    with torch.inference_mode():
        z = model.space.encode(x)
    if isinstance(model.space, AutoencoderKL):
        yield from _coded(picture, z, options, model)
    if options.levels:
        yield from _noised(z, options, model)


@torch.inference_mode()  # active while the generator runs, not between its steps
def _coded(
    picture: Image.Image, z: Tensor, options: ProbeOptions, model: Model
) -> Iterator[Progress | Shown]:
    """Yield the reconstruction and the contribution of each channel to it.

    With `options.channels`, yield only the changed picture.
    """
    count = z.shape[1]
    if options.channels:
        if len(options.channels) != count:
            raise OptionError(f"the code has {count} channels, not {len(options.channels)}")
        factors = torch.tensor(options.channels).to(z)[:, None, None]
        yield Shown("changed", _picture(z * factors, model))
        return
    again = _picture(z, model)
    decibels = _psnr(np.asarray(again, np.float64), np.asarray(picture, np.float64))
    yield Shown("decoded", again, {"psnr": decibels, "shape": list(z.shape[1:])})
    for channel in range(count):
        without = z.clone()
        without[:, channel] = 0
        yield Progress("decoding", channel + 1, count)
        held = _difference(again, _picture(without, model))
        size = round(float(z[:, channel].square().mean().sqrt()), 3)
        yield Shown("channel", held, {"channel": channel, "size": size})


@torch.inference_mode()
def _noised(z: Tensor, options: ProbeOptions, model: Model) -> Iterator[Progress | Shown]:
    """Yield the picture with noise at several levels, and the denoised estimates."""
    plan = make_plan(CreateOptions(steps=options.levels), model)
    condition, _ = model.text([plan.styled(options.prompt)], model.size)
    noise = torch.randn(z.shape, generator=seed_generator(options.seed)).to(z)
    sigmas = [float(sigma) for sigma in plan.sigmas()[:-1]]
    for k, sigma in enumerate(sigmas):
        noisy, guess, error = guess_under_noise(z, sigma, noise, condition, model)
        about = {"sigma": round(sigma, 4), "error": round(error, 5)}
        yield Progress("guessing", k + 1, len(sigmas))
        yield Shown("noisy", _picture(noisy, model), about)
        yield Shown("guess", _picture(guess, model), about)


def _picture(z: Tensor, model: Model) -> Image.Image:
    return image.to_pictures(model.space.decode(z).float())[0].convert("RGB")


def _difference(a: Image.Image, b: Image.Image) -> Image.Image:
    """The amplified difference `a` - `b` as a picture, with gray for no difference."""
    change = np.asarray(a, np.float32) - np.asarray(b, np.float32)
    return Image.fromarray((127.5 + AMPLIFIED / 2 * change).clip(0, 255).astype(np.uint8))


def _restored(picture: Image.Image, kind: Damage) -> Iterator[Progress | Shown]:
    """Yield a picture, its measurement, the restored picture, and the difference of measurements.

    The difference is between the measurement and a measurement of the restored picture.
    """
    picture = image.flattened(picture).copy()
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    if min(picture.size) < SMALLEST:
        raise OptionError(
            f"the picture has {picture.width}x{picture.height} pixels; at least "
            f"{SMALLEST}x{SMALLEST} are needed to damage and restore it"
        )
    yield Progress("restoring", 0, 1)
    x = spoil("picture", np.asarray(picture, np.float64), *DAMAGES[kind])
    clean = torch.from_numpy(x.clean).permute(2, 0, 1)[None]
    made = trained(x, RestorationNetworks()).clamp(0, 255)
    shown = x.y if x.y.shape[-2:] == made.shape[-2:] else interpolate(x.y, x.size)
    left = x.y - _measured(x, made)
    yield Shown("picture", _bytes(clean))
    yield Shown(
        "measured", _bytes(shown), {"psnr": _psnr(shown.expand_as(clean).numpy(), clean.numpy())}
    )
    yield Shown("restored", _bytes(made), {"psnr": _psnr(made.double().numpy(), clean.numpy())})
    yield Progress("restoring", 1, 1)
    off = round(float(left.square().mean().sqrt()), 2)
    yield Shown("difference", _bytes(127.5 + AMPLIFIED / 2 * left), {"rms": off})


def _measured(x: Damaged, made: Tensor) -> Tensor:
    """Apply the measurement to a restored picture: ``A D(y)``, without new noise."""
    if x.task == "fill":
        return made * torch.from_numpy(x.known)
    if x.task == "enlarge":
        return Downscale(x.amount).apply(made)
    if x.task == "colorize":
        return Grayscale().apply(made)
    if x.task == "dejpeg":
        return (JPEG(int(x.amount), int(x.amount))(made / 127.5 - 1).y + 1) * 127.5
    return made


def _bytes(values: Tensor) -> Image.Image:
    return image.to_pictures((values / 127.5 - 1).clamp(-1, 1).float())[0].convert("RGB")


def _psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """PSNR in dB; None for equal pictures."""
    decibels = psnr(a, b)
    return round(decibels, 2) if np.isfinite(decibels) else None
