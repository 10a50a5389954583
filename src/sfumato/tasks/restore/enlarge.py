"""Enlarge pictures with the upscaler of a text-to-image model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import image
from sfumato.corruption.color import Grayscale
from sfumato.data.photo import Photo
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.unet import UNet
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.progress import relayed
from sfumato.runtime import Streams, random_seed
from sfumato.space.detail import Detail
from sfumato.tasks.restore.diffusion import check_prompt, refuse_network_options
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.report import generated_head, shrunk_difference
from sfumato.tasks.restore.run import Restored
from sfumato.tasks.upscale import STEPS, upscale
from sfumato.types import Progress, Reporting

LARGEST = 1024 * 1024  # largest result in pixels: it is generated as a whole


def enlarge(
    photo: Photo, options: RestoreOptions, model: Model, upscaler: Denoiser
) -> Iterator[Progress | Restored]:
    """Enlarge a picture; yield progress after each step, and one result per sample.

    The upscaler enlarges by a factor of 4. For a factor above 4, it is applied repeatedly; the
    result is downsampled to the requested size.

    Raises
    ------
    OptionError
        If the result would be too large, if guidance or `ensemble` is requested, or if a prompt is
        given and the model takes no text.
    """
    factor = options.enlarge or 1.0
    pixels = math.prod(photo.size) * factor**2
    if pixels > LARGEST:
        raise OptionError(
            f"the result would have {pixels / 1e6:.1f} megapixels, but {model.name} enlarges to at "
            f"most {LARGEST / 1e6:.1f} megapixels; for photos, leave --model and --engine out"
        )
    if options.guidance_scale is not None:
        raise OptionError(f"{model.name} enlarges without guidance; leave --guidance-scale out")
    refuse_network_options(options)
    check_prompt(options, model)
    seed = random_seed() if options.seed is None else options.seed
    steps = options.steps or STEPS
    rounds = max(1, math.ceil(math.log(factor, Detail().config.factor) - 1e-9))
    # transparency has its own edges, so it is enlarged as a second picture
    planes = [photo.opaque().frame()] + ([] if photo.alpha is None else [_gray(photo.alpha)])
    total = options.samples * len(planes) * rounds * steps
    progress = (Progress("enlarging", n, total) for n in itertools.count(1))
    for k in range(options.samples):
        made = []
        for plane in planes:
            x = torch.from_numpy(plane)[None].expand(-1, 3, -1, -1).to(model.device)
            noise = Streams([seed + k]).like
            for _ in range(rounds):
                x = yield from _drawn(x, options.prompt, model, upscaler, noise, steps, progress)
            made.append(x)
        yield _restored(photo, options, model, made, seed + k)


def _gray(alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Transparency as a gray picture (1, H, W) in [-1, 1]."""
    return alpha[None].astype(np.float32) / np.float32(127.5) - 1


@torch.inference_mode()  # active while the generator runs, not between its steps
def _drawn(
    x: Tensor,
    prompt: str,
    model: Model,
    upscaler: Denoiser,
    noise: Callable[[Tensor], Tensor],
    steps: int,
    progress: Iterator[Progress],
) -> Reporting[Tensor]:
    """Enlarge a picture (1, 3, h, w) by a factor of 4; yield the next progress after each step."""
    network, factor = upscaler.network, Detail().config.factor
    assert isinstance(network, UNet)
    (tall, wide), unit = x.shape[-2:], network.config.unit
    small = F.pad(x, (0, -wide % unit, 0, -tall % unit), mode="replicate")
    tokens = model.text([prompt], (wide, tall))[0].tokens
    enlarging = upscale(upscaler, small, tokens, noise, steps)
    made = yield from relayed(enlarging, lambda _: next(progress))
    return made[..., : tall * factor, : wide * factor]


def _restored(
    photo: Photo, options: RestoreOptions, model: Model, made: list[Tensor], seed: int
) -> Restored:
    """The result at the requested size, in the photo's format, with its report."""
    factor = options.enlarge or 1.0
    size = round(photo.size[0] * factor), round(photo.size[1] * factor)
    x, *alpha = (_resized(plane.float().cpu(), size) for plane in made)
    x = Grayscale().apply(x) if photo.values.shape[2] == 1 else x
    large = photo.with_values(photo.stored(x[0].numpy()))
    if alpha:
        large = replace(large, alpha=image.to_bytes(alpha[0][0, 0]).numpy())
    report = generated_head(options, model.parts["upscaler"], "upscaler", seed)
    report["shrunk_difference"] = round(shrunk_difference(large, photo, factor), 3)
    return Restored(large, report)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Downsample a picture (1, 3, H, W) to `size`: each pixel is the mean over its area."""
    if (x.shape[-1], x.shape[-2]) == size:
        return x
    return image.to_tensor(image.to_pictures(x)[0].resize(size, Image.Resampling.BOX))
