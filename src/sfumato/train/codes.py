"""Train an autoencoder with short codes on rows of numbers.

The loss is the denoising objective with the preconditioning ``direct``: the network's output is the
estimate itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato.corruption.base import parse
from sfumato.corruption.resample import interpolate
from sfumato.denoiser.denoiser import Denoiser
from sfumato.space.autoencoder import Autoencoder
from sfumato.train.loss import Measure, cross_entropy, denoising_loss, squared
from sfumato.types import Condition, Corrupted

MEASURES: dict[str, Measure] = {"squared": squared, "cross_entropy": cross_entropy}
# number of rows for estimating center and spread (once), and the mean code (after each fit)
SETTLE, RECENTER = 5_000, 1_000


class AutoencoderFit:
    """Reconstruction of rows from short codes; with a corruption, from codes of corrupted rows.

    Parameters
    ----------
    space : Autoencoder
    rows : callable
        ``rows(indices)`` returns float32 rows (B, d) of the data, scaled to [-1, 1].
    count : int
        Number of rows.
    loss : {"squared", "cross_entropy"}
    corruption : str
        Corruption in string form (see :func:`sfumato.parse`); "none" for a plain autoencoder.
    """

    def __init__(
        self,
        space: Autoencoder,
        rows: Callable[[NDArray[np.int64]], Tensor],
        count: int,
        *,
        loss: str = "squared",
        corruption: str = "none",
    ) -> None:
        self.module, self.rows, self.count = space, rows, count
        self.denoiser = Denoiser(space, "direct")
        self.corruption, self.measure = parse(corruption), MEASURES[loss]
        self.weights = torch.ones(count)

    def fit_normalization(self) -> None:
        """Estimate the space's center and spread from evenly spaced rows."""
        self.module.fit_normalization(self._sample(SETTLE))

    def recenter(self) -> None:
        """Move the origin of the codes to the mean code of evenly spaced rows."""
        self.module.recenter(self._sample(RECENTER))

    def _sample(self, most: int) -> Tensor:
        return self.batch(torch.arange(0, self.count, -(-self.count // most)))

    def batch(self, rows: Tensor) -> Tensor:
        """Rows as pictures (B, C, H, W) on the module's device."""
        return (
            self.rows(rows.numpy())
            .reshape(-1, *self.module.config.shape)
            .to(self.module.center.device)
        )

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss over the rows."""
        return denoising_loss(
            self.denoiser,
            self.batch(rows),
            self.damage,
            Condition(),
            generator=random,
            measure=self.measure,
        )

    def damage(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Corrupt rows; interpolate a smaller result to the original size.

        The network takes inputs of this size only.
        """
        out = self.corruption(x, generator=generator)
        return (
            out
            if out.y.shape == x.shape
            else Corrupted(interpolate(out.y, (x.shape[-2], x.shape[-1])), out.sigma)
        )

    def preview(self) -> None:
        """No preview: estimators train in memory, and `sfumato reduce` shows reconstructions."""
