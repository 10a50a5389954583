"""What an explanation records: the runs, the experiments with their pictures, and comparisons."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import image
from sfumato.hub.load import Model
from sfumato.space.pixels import Pixels
from sfumato.tasks.explain.trace import Trace

# side up to which decoding is fast; for larger pictures only the guided estimate is decoded
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
        For each step, pictures decoded from its latents, by the latents' names; empty if
        the run is ``light``.
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
class Compared:
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
