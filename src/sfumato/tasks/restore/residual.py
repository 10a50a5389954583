"""Correct a measured noise level with the help of a denoising network.

A noise level that was measured from patch statistics is too high if the picture has fine texture. A
denoising network can tell texture from noise. The theory gives the amount that the best denoiser
removes at a given noise level. So the level is corrected until the network removes this amount.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato.tasks.restore.grain import Denoise
from sfumato.tasks.restore.noise import Noise, dependence_on_light, mean_light

SIDE, PLACES = 192, 5  # side of the part that is denoised; number of possible places per direction
ROUNDS, CLOSE = 6, 0.02  # largest number of corrections, and the correction that is small enough
# largest factor by which the level is raised: the network takes small text for noise, too
RAISE = 1.25
PROBE = 0.1  # change of the input from which derivatives are computed, in noise levels
CLEAR = 2.0  # distance from black and white, in noise levels, at which hardly any noise is clipped
FEWEST = 0.1  # smallest share of pixels at this distance
LEAST, LOWEST = 0.05, 1e-4  # smallest share of noise that is removed; smallest noise level
# number of groups of pixels by brightness, smallest number of values in a group, and smallest
# range of brightness that shows how noise depends on it
GROUPS, VALUES, RANGE = 8, 2000, 0.3
NEAR = 0.92  # absolute value from which pixels are so close to black or white that they may clip


def corrected(
    x: NDArray[np.float32], seen: NDArray[np.bool_] | None, noise: Noise, denoise: Denoise
) -> Noise:
    """Correct white noise, measured in a picture (C, H, W), until it fits what a network removes.

    Let ``s`` be the standard deviation of the noise in ``y``, ``D`` a denoiser with the smallest
    mean squared error, and ``d`` the mean derivative of the outputs of ``D`` with respect to the
    inputs at the same positions. The mean of ``(y - D(y))^2`` is then ``s^2 (1 - d)``. This follows
    from Stein's lemma (Stein 1981), as the error of ``D`` is orthogonal to all functions of ``y``.
    A random probe gives ``d`` (Ramani, Blu & Unser 2008). The equation is solved for ``s`` several
    times, since ``D`` depends on the assumed level. Solved for groups of pixels of similar
    brightness, it also shows how the noise depends on brightness.

    Parameters
    ----------
    x : array, (1 or 3, H, W), in [-1, 1]
    seen : array of bool, (H, W), optional
        Pixels to use: not fully transparent, and not in or near an area of a single color.
    noise : Noise
        The measured noise, without grain.
    denoise : Denoise
    """
    usable = np.ones(x.shape[1:], bool) if seen is None else seen
    part = _part(x, usable)
    y = torch.from_numpy(np.ascontiguousarray(x[(slice(None), *part)]))[None]
    visible, highest = torch.from_numpy(usable[part]), RAISE * noise.level
    random = Generator().manual_seed(0)
    for _ in range(ROUNDS):
        light, squares, derivatives = _removed(y, visible, noise, denoise, random)
        if len(light) < FEWEST * y.numel():
            break
        before, noise = noise, _fitted(light, squares, derivatives, x, noise)
        if abs(noise.level - before.level) < CLOSE * before.level:
            break
    return noise.scaled(min(1.0, highest / max(noise.level, LOWEST)))


def _removed(
    y: Tensor, visible: Tensor, noise: Noise, denoise: Denoise, random: Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Denoise `y`; return brightness, squared change and derivative for each visible value.

    The derivative is that of the denoised value with respect to the input at the same position.
    Values near black and white are left out, since their noise may be clipped.
    """

    def restored(picture: Tensor) -> Tensor:
        made = denoise(picture.expand(-1, 3, -1, -1), noise.of(picture))
        return made.mean(dim=1, keepdim=True) if y.shape[1] == 1 else made

    estimate = restored(y)
    light = mean_light(estimate)
    level = torch.from_numpy(noise.at(light.numpy())).to(y).clamp_min(LOWEST)
    probe = torch.randn(y.shape, generator=random)
    derivative = probe * (restored(y + PROBE * level * probe) - estimate) / (PROBE * level)
    margin = CLEAR * level
    clear = (estimate - y.min() > margin) & (y.max() - estimate > margin) & visible
    found = light.expand_as(y), (y - estimate).square(), derivative
    first, second, third = (values[clear].numpy() for values in found)
    return first, second, third


def _fitted(
    light: NDArray[Any],
    squares: NDArray[Any],
    derivatives: NDArray[Any],
    x: NDArray[np.float32],
    noise: Noise,
) -> Noise:
    """Solve the equation of :func:`corrected` for the noise; `noise` is the last estimate.

    The level of the result is the root mean square over the whole picture `x`.
    """

    def level(chosen: NDArray[np.bool_]) -> float:
        share = max(1 - float(derivatives[chosen].mean()), LEAST)
        return max(math.sqrt(float(squares[chosen].mean()) / share), LOWEST)

    edges = np.quantile(light, np.linspace(0, 1, GROUPS + 1))
    groups = [(light >= low) & (light <= high) for low, high in itertools.pairwise(edges)]
    groups = [group for group in groups if group.sum() >= VALUES]
    places = np.array([light[group].mean() for group in groups])
    if len(places) > 1 and np.ptp(places) > RANGE:
        ends = dependence_on_light(places, np.array([level(group) for group in groups]))
        if ends is None:
            return Noise(level(np.ones(len(light), bool)))
        if len(x) == 1:  # patches of a single channel show the dependence on brightness badly
            uneven = Noise(1.0, *ends)
            return Noise(float(np.sqrt(np.square(uneven.at(x)).mean())), *ends)
    relative = squares / np.square(np.maximum(noise.at(light), LOWEST))
    factor = math.sqrt(float(relative.mean()) / max(1 - float(derivatives.mean()), LEAST))
    return noise.scaled(factor)


def _part(x: NDArray[np.float32], usable: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The part of a picture with the most usable pixels that are not near black or white."""
    useful = usable & (np.abs(x).max(axis=0) < NEAR)
    rows, columns = (
        [
            slice(start, start + SIDE)
            for start in np.linspace(0, max(0, n - SIDE), PLACES).astype(int)
        ]
        for n in x.shape[1:]
    )
    return max(itertools.product(rows, columns), key=lambda part: int(useful[part].sum()))
