"""Start sampling from a picture, and keep its known pixels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import image
from sfumato.corruption.mask import Mask
from sfumato.runtime import Streams
from sfumato.sampler.schedule import initial
from sfumato.tasks.create.plan import Plan


def initial_latents(
    plan: Plan, streams: Streams, top: float
) -> tuple[Tensor, Tensor | None, tuple[Mask, Tensor] | None]:
    """Return the initial noisy latents, extra input channels, and a pair (mask, known latents).

    The extra channels are for a network that was trained for inpainting; for other networks they
    are None. The pair is for inpainting with other networks; in all other cases it is None.
    """
    model, (wide, tall) = plan.model, plan.size
    channels, factor = model.space.config.latent_channels, model.space.config.factor
    shape = (len(streams.generators), channels, tall // factor, wide // factor)
    noise = streams.normal(shape).to(model.device)
    planes = _planes(plan, noise)
    if plan.start is None or (plan.start.hidden is None and plan.strength == 1):
        return initial(noise, top), planes, None  # at full strength, only the size is kept
    z = model.space.encode(image.to_tensor(plan.start.picture).to(model.device)).float()
    if plan.start.hidden is not None and planes is None:
        mask = Mask(_latent_known(plan.start.hidden, factor).to(model.device))
        return z + top * noise, planes, (mask, mask.apply(z))
    return z + top * noise, planes, None


def _planes(plan: Plan, like: Tensor) -> Tensor | None:
    """The extra input of an inpainting network (9 channels); None for other networks.

    It consists of the mask and the latents of the masked picture.
    """
    model, start = plan.model, plan.start
    if model.network.config.in_channels != 2 * like.shape[1] + 1:
        return None
    picture = start.picture if start else Image.new("RGB", plan.size)
    whole = np.ones(plan.size[::-1], bool)
    hidden = whole if start is None or start.hidden is None else start.hidden
    pixels = image.to_tensor(picture).to(model.device)
    gap = torch.from_numpy(hidden)[None, None].to(pixels)
    seen = model.space.encode(pixels * (1 - gap)).to(like)
    small = 1 - _latent_known(hidden, model.space.config.factor).to(like)
    return torch.cat([small[None, None], seen], dim=1).expand(len(like), -1, -1, -1)


def _latent_known(hidden: NDArray[np.bool_], factor: int) -> Tensor:
    """Mask (h, w) of the latent positions whose pixels are all known."""
    tall, wide = hidden.shape
    blocks = hidden.reshape(tall // factor, factor, wide // factor, factor)
    return torch.from_numpy(1.0 - blocks.any(axis=(1, 3)).astype(np.float32))


def paste_known(plan: Plan, made: Image.Image) -> Image.Image:
    """Put the source's own pixels back where the mask is black, and crop the padding."""
    start = plan.start
    if start is None or start.replaced is None:
        return made
    if start.profile is not None:
        made = image.from_srgb(made, start.profile)
    made = made.convert(start.stored.mode)  # inpainted pixels are opaque
    values = np.where(start.replaced[..., None], np.asarray(made), np.asarray(start.stored))
    kept = Image.fromarray(values).crop((0, 0, *plan.shown))
    if start.profile is not None:
        kept.info["icc_profile"] = start.profile
    return kept
