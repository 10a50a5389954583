"""One stage of a restoration: the input of a network for each window, and the use of its output."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.corruption.color import Grayscale
from sfumato.corruption.resample import magnify
from sfumato.data.photo import Photo
from sfumato.denoiser.restorer import (
    FILLS_MARGIN,
    MARGIN,
    PLANES,
    VIEWS,
    NoiseMaps,
    restorer_planes,
    self_ensemble,
)
from sfumato.tasks.restore.color import deblock_chroma, luminance, tone, toned
from sfumato.tasks.restore.grain import Denoise, remove_grain
from sfumato.tasks.restore.masks import of_color, painted
from sfumato.tasks.restore.noise import Noise
from sfumato.tasks.restore.options import Only, RestoreOptions
from sfumato.tasks.restore.patches import WIDE, wide_holes
from sfumato.tasks.restore.report import largest_change, shrunk_difference

IN_JPEG = 1.2  # factor of the level for the network, for noise in a color JPEG


class Engine(Protocol):
    """The networks that restore a picture."""

    @property
    def has_specialists(self) -> bool:
        """Whether most kinds of damage have a network of their own; else one network undoes all."""
        ...

    def sha256(self, part: str) -> str:
        """Digest of the weights for a part of the work.

        A part has the name of its network: "noise", "gaps" or "size" for a stage that only
        denoises, fills or enlarges, "tints" for color, and "photos" for any other stage.
        """
        ...

    def repair(self, y: Tensor, planes: Tensor, sigma: float | Tensor, only: Only = None) -> Tensor:
        """Restore a damaged picture (1, 3, h, w) in [-1, 1]; returns (1, 3, h, w).

        Takes the planes (1, 4, h, w) of :func:`restorer_planes` and the noise level for values in
        [-1, 1]: one number, or one per pixel (1, 1, h, w). If the whole picture has a single kind
        of damage, `only` names it, since there may be a better network for this kind.
        """
        ...

    def damage(self, y: Tensor) -> Tensor:
        """Picture (1, 3, h, w) in [-1, 1] -> the share of damage in each pixel, (1, 1, h, w)."""
        ...

    def noise_levels(self, y: Tensor) -> NoiseMaps:
        """Picture (1, 3, h, w) in [-1, 1] -> the noise level of each pixel."""
        ...

    def colors(self, gray: Tensor) -> Tensor:
        """Luminance (1, 1, h, w) in [-1, 1] -> chroma (1, 3, h, w).

        The luminance may have any size. The chroma is to be added to the luminance.
        """
        ...


class Stage:
    """One stage for one photo: its options, noise, JPEG quality, hidden pixels and networks."""

    def __init__(
        self,
        photo: Photo,
        options: RestoreOptions,
        engine: Engine,
        noise: Noise,
        jpeg: int,
        hidden: NDArray[np.bool_] | None,
    ) -> None:
        self.photo, self.options, self.engine, self.hidden = photo, options, engine, hidden
        self.noise = noise if options.denoise is not None else Noise(0.0)
        self.quality = jpeg if options.dejpeg is not None else 100
        self.size = size_of(photo, options)
        # a sepia print is restored in gray and keeps its tone
        self.tone = None if options.colorize else tone(photo, self.hidden)
        self.gray = options.colorize or photo.gray or self.tone is not None
        auto = options.denoise == "auto" and options.only == "noise" and noise.grain is None
        if auto and photo.quality is not None and not self.gray and engine.has_specialists:
            # JPEG removes noise in color, so there is more noise in the luminance than the network
            # expects at this level
            self.noise = noise.scaled(IN_JPEG)
        self.channels = 1 if options.colorize else photo.values.shape[2]
        # whether the stage only fills holes: all known pixels stay, except for color if it is
        # requested
        self.keeps_known = options.only == "gaps"
        # the holes that patches fill, and the hidden pixels that are left to the network
        self.wide_holes = self._wide_holes()
        self.gaps = self._gaps()
        self.grain = self.noise.grain if options.only == "noise" else None
        # pixels around a window that the network also sees; grain is removed on two scales
        self.margin = FILLS_MARGIN if self.keeps_known or self.grain is not None else MARGIN

    def window(self, rows: slice, columns: slice) -> Tensor:
        """The restored picture (1, channels, h, w) in a window of the result."""
        if self.keeps_known and not self.gaps[rows, columns].any():
            return self._measured(rows, columns)[0].expand(-1, self.channels, -1, -1)  # as it is
        y, known = self._enlarged_input(rows, columns)
        planes = restorer_planes(
            known, detail=1 / (self.options.enlarge or 1), quality=self.quality / 100
        )
        only, ensemble = self.options.only, self.options.ensemble
        sigma, y = self.noise.of(y), y.expand(-1, 3, -1, -1) * known
        if self.grain is None:
            made = apply_network(self.engine, y, planes, sigma, only, ensemble=ensemble)
        else:
            denoise = noise_network(self.engine, ensemble=ensemble)
            made = remove_grain(denoise, y, self.grain)
        if not self.gray:
            return made
        made = Grayscale().apply(made)
        return (
            made.expand(-1, self.channels, -1, -1) if self.tone is None else toned(made, self.tone)
        )

    def _enlarged_input(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The damaged photo in a window, interpolated to the size of the result.
        Return the values (1, C, h, w) and the mask of known pixels (1, 1, h, w).
        """
        if self.options.enlarge is None:
            return self._measured(rows, columns)
        (down, tall), (across, wide) = (
            magnify(small, large, window.start, window.stop)
            for small, large, window in zip(
                self.photo.values.shape, self.size, (rows, columns), strict=False
            )
        )
        y, known = self._measured(down, across)
        y, known = (tall.to(x) @ (x * known) @ wide.to(x).T for x in (y, known))
        return y, (known > 0.999).float()

    def _measured(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.photo.frame(rows, columns))[None]
        known = (
            torch.ones_like(x[:, :1])
            if self.hidden is None
            else torch.from_numpy(~self.hidden[rows, columns]).float()[None, None]
        )
        return (Grayscale().apply(x) if self.gray and x.shape[1] == 3 else x), known

    def merge_known(self, made: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Return the values to store for a window.

        If the stage only fills holes, known pixels keep the file's own values.
        """
        if not self.keeps_known or self.hidden is None:
            return made
        own = self.photo.values[rows, columns]
        if self.options.colorize:
            own = luminance(own).round().astype(own.dtype)[..., None]
        return np.where(self.hidden[rows, columns, None], made, own)

    def _wide_holes(self) -> NDArray[np.bool_] | None:
        """Return the holes that patches fill; None if patches fill no holes."""
        chosen = self.options.engine
        if self.hidden is None or not self.keeps_known or chosen == "network":
            return None
        if not self.engine.has_specialists and chosen == "auto":
            return None  # a custom network also fills wide holes
        holes = wide_holes(self.hidden, 0 if chosen == "patches" else WIDE, self._margin())
        return holes if holes.any() else None

    def _margin(self) -> NDArray[np.bool_] | None:
        """The rim of painted pixels: it is inpainted, too, but does not add to a hole's width."""
        color, tolerance = self.options.fill_color, self.options.fill_tolerance
        if color is None:
            return None
        return painted(self.photo, color, tolerance) & ~of_color(self.photo, color, tolerance)

    def _gaps(self) -> NDArray[np.bool_]:
        if self.hidden is None:
            return np.zeros(self.photo.values.shape[:2], bool)
        return self.hidden if self.wide_holes is None else self.hidden & ~self.wide_holes

    def measurements(self, made: Photo) -> dict[str, Any]:
        """Measurements of the stage for the report."""
        options = self.options
        out: dict[str, Any] = {}
        if options.denoise is not None:
            out["sigma"] = round(self.noise.level * 127.5, 2)
            out |= self.noise.measurements()
        if options.dejpeg is not None:
            out["quality"] = self.quality
        if self.hidden is not None:
            out["made_anew"] = round(float(self.hidden.mean()), 6)
        if self.keeps_known and self.hidden is not None and not options.colorize:
            out["largest_change_elsewhere"] = largest_change(
                made.values, self.photo.values, ~self.hidden
            )
        if options.enlarge is not None:
            out["shrunk_difference"] = round(
                shrunk_difference(made, self.photo, options.enlarge), 3
            )
        return out


def noise_network(engine: Engine, *, ensemble: bool = False) -> Denoise:
    """Return an engine's network for white noise."""

    def denoise(y: Tensor, sigma: float | Tensor) -> Tensor:
        planes = restorer_planes(torch.ones_like(y[:, :1]))
        return apply_network(engine, y, planes, sigma, "noise", ensemble=ensemble)

    return denoise


def apply_network(
    engine: Engine,
    y: Tensor,
    planes: Tensor,
    sigma: float | Tensor,
    only: Only,
    *,
    ensemble: bool = False,
) -> Tensor:
    """Restore a window (1, 3, h, w) with an engine.

    With `ensemble`, return the mean over all eight rotations and flips of the window.
    """
    if not ensemble:
        made = engine.repair(y, planes, sigma, only)
    elif isinstance(sigma, Tensor):
        made = self_ensemble(
            lambda view, known, level: engine.repair(view, known, level, only),
            VIEWS,
            y,
            planes,
            sigma,
        )
    else:
        made = self_ensemble(
            lambda view, known: engine.repair(view, known, sigma, only), VIEWS, y, planes
        )
    quality = 100 * float(planes[0, PLANES.index("quality"), 0, 0])
    return deblock_chroma(made, quality)


def size_of(photo: Photo, options: RestoreOptions) -> tuple[int, int]:
    """Height and width of the result."""
    wide, tall = photo.size
    return round(tall * (options.enlarge or 1)), round(wide * (options.enlarge or 1))
