"""Evaluate: the field's standard figures by the field's exact conventions.

Denoising: Gaussian noise of a fixed seed is added to values of 0 to 255 and not clipped; PSNR over all channels. Enlarging:
pictures are cut to a multiple of the factor and shrunk by MATLAB's antialiased bicubic kernel to whole numbers; PSNR and SSIM
of the luminance Y (BT.601), without a border as wide as the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato import image
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.errors import OptionError, unknown
from sfumato.metrics import luminance, psnr, ssim
from sfumato.runtime import generator
from sfumato.train.data import find

Method = Callable[[Tensor, tuple[int, int]], Tensor]
"""(damaged picture (1, C, h, w) with values 0 to 255, size (H, W) of the result) -> (1, C, H, W)."""

METHODS: dict[str, tuple[str, Method]] = {
    "input": ("denoise", lambda y, size: y),
    "bicubic": ("enlarge", interpolate),
}


@dataclass(frozen=True)
class Score:
    """Of one picture, in dB and -1 to 1; `name` is its file's."""

    name: str
    psnr: float
    ssim: float


def restore(
    source: Path, *, denoise: float | None = None, enlarge: float | None = None, gray: bool = False, method: str | None = None
) -> Iterator[Score]:
    """Damage each picture of a folder, restore it, and compare.

    Parameters
    ----------
    source : Path
        Folder of pictures.
    denoise : float, optional
        Deviation of the noise for values of 0 to 255.
    enlarge : float, optional
        Factor, 1.5 to 8.
    gray : bool
        Take the pictures as grey: BSD68 is CBSD68 so taken.
    method : str, optional
        ``input`` (leave the noise in) or ``bicubic``: with these the figures are known, which shows that the ruler is right.

    Raises
    ------
    OptionError
        Unless one task is asked for, within its range, with a method that it has.
    """
    if (denoise is None) == (enlarge is None):
        raise OptionError("give either --denoise SIGMA or --enlarge FACTOR")
    if denoise is not None and not 0 < denoise <= 255:
        raise OptionError(f"sigma {denoise:g} is not within 0 to 255")
    task = "denoise" if denoise is not None else "enlarge"
    known = {name: work for name, (kind, work) in METHODS.items() if kind == task}
    chosen = method or next(iter(known))
    if chosen not in known:
        raise unknown(f"method to {task}", chosen, known)
    shrink = Downscale(enlarge) if enlarge is not None else None
    for sample in find(source):
        picture = image.read(sample.read())
        clean = np.asarray(picture.convert("L") if gray else picture, np.float64)
        clean = clean if clean.ndim == 3 else clean[..., None]
        if shrink is not None:
            yield _enlarged(sample.name, clean, shrink, known[chosen])
        else:
            yield _denoised(sample.name, clean, float(denoise or 0), known[chosen])


def _denoised(name: str, clean: NDArray[np.float64], sigma: float, method: Method) -> Score:
    x = torch.from_numpy(clean).permute(2, 0, 1)[None]
    noise = torch.randn(x.shape, generator=generator("evaluate", name), dtype=torch.float64)
    made = method(x + sigma * noise, clean.shape[:2])[0].permute(1, 2, 0).numpy()
    return Score(name, psnr(made, clean), ssim(made, clean))


def _enlarged(name: str, clean: NDArray[np.float64], shrink: Downscale, method: Method) -> Score:
    tall, wide = (int(int(n / shrink.factor) * shrink.factor) for n in clean.shape[:2])
    clean = clean[:tall, :wide]
    small = shrink.apply(torch.from_numpy(clean.copy()).permute(2, 0, 1)[None]).round().clamp(0, 255)
    made = method(small, (tall, wide))[0].permute(1, 2, 0).clamp(0, 255).numpy()
    border = round(shrink.factor)
    grey = (clean == clean[..., :1]).all()  # a grey picture is its own luminance
    a, b = ((x[..., 0] if grey else luminance(x)) for x in (made, clean))
    return Score(name, psnr(a, b, border), ssim(a, b, border))
