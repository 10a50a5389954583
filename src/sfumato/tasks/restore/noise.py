"""The noise of a photo: one level, or a level that depends on brightness, or film grain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from sfumato.tasks.restore.grain import Grain

UNEVEN = 1.6  # ratio of noise at black and white that counts as dependence on brightness
# pixels over which brightness is averaged, since the brightness of a single pixel is noisy
AROUND = 7


@dataclass(frozen=True)
class Noise:
    """Noise of a photo, for values in [-1, 1].

    Attributes
    ----------
    level : float
        Standard deviation of the noise over the whole picture.
    dark, bright : float
        Standard deviation of the noise at black and at white, if the noise depends on brightness;
        otherwise both are 0. In between, the variance is linear in brightness (Foi et al. 2008,
        equation 5: a constant part and a part from photons).
    grain : Grain, optional
        Description of the noise if it is not white; such noise does not depend on brightness.
    """

    level: float
    dark: float = 0.0
    bright: float = 0.0
    grain: Grain | None = None

    def scaled(self, factor: float) -> Noise:
        """Return noise without grain that is `factor` times as strong as this noise."""
        return Noise(factor * self.level, factor * self.dark, factor * self.bright)

    def at(self, light: NDArray[Any]) -> NDArray[Any]:
        """Return the standard deviation of the noise for brightness values in [-1, 1]."""
        if not self.dark + self.bright:
            return np.full_like(light, self.level)
        share = (light.clip(-1, 1) + 1) / 2
        found: NDArray[Any] = np.sqrt((1 - share) * self.dark**2 + share * self.bright**2)
        return found

    def of(self, y: Tensor) -> float | Tensor:
        """Return the noise level of a picture (1, C, h, w).

        It is one number or, if the noise depends on brightness, a map (1, 1, h, w) that is computed
        from the mean brightness around each pixel.
        """
        if not self.dark + self.bright:
            return self.level
        return torch.from_numpy(self.at(mean_light(y).numpy())).to(y)

    def measurements(self) -> dict[str, Any]:
        """Return the measurements other than the level, by name, for the report.

        They say whether the noise is grain, and give its standard deviation at half the size, or
        in dark and in bright areas, for values of 0 to 255. The result is empty for white noise
        that does not depend on brightness.
        """
        if self.grain is not None:
            return {"grain": True, "sigma_coarse": round(self.grain.coarse * 127.5, 2)}
        if not self.dark + self.bright:
            return {}
        return {
            "sigma_dark": round(self.dark * 127.5, 2),
            "sigma_bright": round(self.bright * 127.5, 2),
        }


def mean_light(y: Tensor) -> Tensor:
    """Mean brightness around each pixel, (1, 1, h, w), of a picture (1, C, h, w)."""
    mean = y.mean(dim=1, keepdim=True)
    return F.avg_pool2d(mean, AROUND, 1, AROUND // 2, count_include_pad=False)


def dependence_on_light(light: NDArray[Any], levels: NDArray[Any]) -> tuple[float, float] | None:
    """Fit the noise at black and at white to noise levels at several brightness values.

    The variance is linear in brightness (Foi et al. 2008). The result is None if the two levels
    differ by a factor of less than 1.6.
    """
    ends = np.stack([(1 - light) / 2, (1 + light) / 2], axis=1) / levels[:, None] ** 2
    dark, bright = (math.sqrt(v) for v in nnls(ends, np.ones(len(light)))[0])
    return None if max(dark, bright) < UNEVEN * min(dark, bright) else (dark, bright)
