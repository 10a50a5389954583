"""Restore: what is known of a damaged photograph in, the whole photograph out, in one step.

All that is asked for is undone together: the network is told the noise level, which pixels are known, whether their color
is, and how much larger the result shall be. What was measured and is not to change stays as it is in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from sfumato import __version__, image
from sfumato.corruption.color import LUMA
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import Restorer, RestorerConfig
from sfumato.errors import ModelError, OptionError
from sfumato.hub.files import digest, network_from, weight_file
from sfumato.runtime import autocast, choose_device
from sfumato.space.tile import windowed
from sfumato.tasks.photo import Photo
from sfumato.types import Condition, Options

TILE, MARGIN = 512, 128  # pixels; the margin is more than the network sees, so tiles change nothing


class RestoreOptions(Options):
    """What to undo; at least one thing."""

    denoise: Literal["auto"] | float | None = None  # deviation of the noise for values of 0 to 255
    fill: str | None = None  # picture: white = make anew
    fill_box: tuple[int, int, int, int] | None = None  # x, y, width, height
    colorize: bool = False
    enlarge: float | None = Field(None, ge=1.5, le=8)

    @model_validator(mode="after")
    def _something(self) -> RestoreOptions:
        if not (self.denoise is not None or self.fill or self.fill_box or self.colorize or self.enlarge):
            raise OptionError("nothing to undo; give --denoise, --fill, --fill-box, --colorize or --enlarge")
        if isinstance(self.denoise, float) and not 0 < self.denoise <= 255:
            raise OptionError(f"sigma {self.denoise:g} is not within 0 to 255")
        return self


@dataclass(frozen=True)
class Restored:
    """A restored photo.

    Attributes
    ----------
    photo : Photo
    report : dict
        What was done, in numbers: the noise level, the share of pixels made anew, the largest change of the others, the
        largest change of luminance, or the difference between the shrunk result and the input.
    """

    photo: Photo
    report: dict[str, Any]


class Repairer:
    """A loaded restorer.

    Parameters
    ----------
    folder : Path
        Written by ``sfumato train restorer``.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder} is no restorer (sfumato train restorer makes one)")
        self.network = network_from(Restorer, RestorerConfig, folder).eval().to(choose_device(device)).channels_last()
        self.denoiser, self.sha256 = Denoiser(self.network, "direct"), digest(weight_file(folder))

    @torch.inference_mode()
    def __call__(self, y: Tensor, planes: Tensor, sigma: float) -> Tensor:
        """Damaged picture (1, 3, H, W) in [-1, 1], planes (1, 4, H, W), noise level in that frame -> (1, 3, H, W)."""
        device = self.network.head.weight.device

        def piece(x: Tensor) -> Tensor:
            noisy = x[:, :3].to(device)
            with autocast(device, torch.bfloat16):  # the change is computed in 16 bits, what it is added to stays in 32
                made: Tensor = self.denoiser(noisy, noisy.new_full((1,), sigma), Condition(planes=x[:, 3:].to(device)))
            return made.float().cpu()

        return windowed(piece, torch.cat([y, planes], dim=1), tile=TILE, margin=MARGIN)


def restore(photo: Photo, options: RestoreOptions, repairer: Repairer) -> Restored:
    """Undo what is asked for.

    Raises
    ------
    OptionError
        For a mask that does not fit or hides nothing or all, and for colorizing and filling what cannot be.
    """
    hidden = _hidden(photo, options)
    x = torch.from_numpy(photo.frame())[None]
    grey = options.colorize or x.shape[1] == 1
    if x.shape[1] == 3 and options.colorize:
        x = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    level = 0.0 if options.denoise is None else estimate_noise(x[0].numpy()) if options.denoise == "auto" else options.denoise / 127.5
    known = torch.ones(1, 1, *x.shape[-2:]) if hidden is None else torch.from_numpy(~hidden).float()[None, None]
    size = x.shape[-2:] if options.enlarge is None else torch.Size(round(n * options.enlarge) for n in x.shape[-2:])
    y = x.expand(-1, 3, -1, -1) * known
    if size != x.shape[-2:]:
        y, known = interpolate(y, (size[0], size[1])), (interpolate(known, (size[0], size[1])) > 0.999).float()
    color, detail, quality = 0.0 if options.colorize else 1.0, 1 / (options.enlarge or 1), 1.0
    planes = torch.cat([known, *(torch.full_like(known, v) for v in (color, detail, quality))], dim=1)
    made = repairer(y, planes, level)
    if options.colorize and options.denoise is None and options.enlarge is None:
        made = torch.where(known.bool(), with_luminance(made, x), made)
    elif grey and not options.colorize:
        made = (made * made.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return _finished(photo, options, x, made, hidden, level, repairer)


def _finished(
    photo: Photo, options: RestoreOptions, x: Tensor, made: Tensor, hidden: NDArray[np.bool_] | None, level: float, repairer: Repairer
) -> Restored:
    only_fill = hidden is not None and options.denoise is None and not options.colorize and options.enlarge is None
    out = photo.with_frame(made[0].numpy(), keep=~hidden if only_fill and hidden is not None else None)
    report: dict[str, Any] = {
        "task": "restore",
        "version": __version__,
        "model_sha256": repairer.sha256,
        **options.model_dump(mode="json", exclude_none=True),
    }
    if options.denoise is not None:
        report["sigma"] = round(level * 127.5, 2)
    if hidden is not None:
        report["made_anew"] = round(float(hidden.mean()), 6)
    if only_fill and hidden is not None:
        report["largest_change_elsewhere"] = int(np.abs(out.values.astype(int) - photo.values)[~hidden].max(initial=0))
    if options.colorize and options.denoise is None and options.enlarge is None:
        report["largest_change_of_luminance"] = round(float(np.abs(_luma(out.values) - _luma(photo.values)).max()) * 255 / out.top, 3)
    if options.enlarge is not None and options.denoise is None and out.size[0] == round(photo.size[0] * options.enlarge):
        small = Downscale(options.enlarge).apply(torch.from_numpy(out.frame())[None])
        if small.shape[-2:] == x.shape[-2:]:
            report["shrunk_difference"] = round(float((small - x).abs().mean()) * 127.5, 3)
    return Restored(out, report)


def _luma(values: NDArray[Any]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = values[..., 0].astype(np.float64) if values.shape[2] == 1 else values @ np.array(LUMA)
    return out


def with_luminance(rgb: Tensor, grey: Tensor) -> Tensor:
    """The colors of `rgb` (B, 3, H, W) at the luminance of `grey` (B, 1, H, W), paled where they would not fit into [-1, 1]."""
    weights = rgb.new_tensor(LUMA)[:, None, None]
    chroma = rgb - (rgb * weights).sum(1, keepdim=True)
    room = torch.where(chroma > 0, (1 - grey) / chroma.clamp_min(1e-6), (1 + grey) / (-chroma).clamp_min(1e-6))
    return grey + chroma * room.amin(dim=1, keepdim=True).clamp(0, 1)


def estimate_noise(x: NDArray[Any]) -> float:
    """Deviation of white noise in a picture (C, H, W): the median of its finest diagonal differences (Donoho & Johnstone 1994, section 4.1)."""
    tall, wide = (n // 2 * 2 for n in x.shape[-2:])
    if tall < 2 or wide < 2:
        return 0.0
    even = x[..., :tall, :wide]
    diagonal = (even[..., ::2, ::2] - even[..., ::2, 1::2] - even[..., 1::2, ::2] + even[..., 1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)


def _hidden(photo: Photo, options: RestoreOptions) -> NDArray[np.bool_] | None:
    """Where pixels are to be made anew, (H, W)."""
    if options.fill is None and options.fill_box is None:
        return None
    wide, tall = photo.size
    hidden = np.zeros((tall, wide), bool)
    if options.fill is not None:
        mask = image.read(Path(options.fill)).convert("L")
        if mask.size != photo.size:
            raise OptionError(f"the mask has {mask.width}x{mask.height} pixels, the picture {wide}x{tall}: they must agree")
        hidden |= np.asarray(mask) >= 128
    if options.fill_box is not None:
        left, top, width, height = options.fill_box
        if width < 1 or height < 1 or left < 0 or top < 0 or left + width > wide or top + height > tall:
            raise OptionError(f"the box {left},{top},{width},{height} does not lie within the picture of {wide}x{tall} pixels")
        hidden[top : top + height, left : left + width] = True
    if not hidden.any():
        raise OptionError(f"{options.fill} is black everywhere: paint white what is to be made anew")
    if hidden.all():
        raise OptionError("all of the picture is to be made anew: nothing is left to go by; sfumato create makes new pictures")
    return hidden
