"""Schedules: the noise levels that a sampler visits.

A schedule takes an increasing `table` (T,) of the model's own noise levels, and a number of steps.
It returns decreasing levels (steps + 1,), which end at 0. The result is shorter if the table has
too few levels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rule = Literal["all", "solver", "lcm"]
Schedule = Callable[[Tensor, int], Tensor]


def at_times(table: Tensor, times: Tensor) -> Tensor:
    """Return the levels at fractional timesteps, interpolated in log sigma, followed by 0."""
    times = times.to(torch.float64).clamp(0, len(table) - 1)
    low = times.floor().long().clamp_max(len(table) - 2)
    logs = table.double().log()
    return _end((logs[low] + (times - low) * (logs[low + 1] - logs[low])).exp())


def _end(sigmas: Tensor) -> Tensor:
    """Remove repeated levels and append 0.

    A short table gives fewer levels than requested.
    """
    zero = sigmas.new_zeros(1, dtype=torch.float64)
    return torch.cat([sigmas.double().unique_consecutive(), zero])


def initial(noise: Tensor, sigma: float) -> Tensor:
    """Scale standard normal noise to the variance of noisy data at the highest level `sigma`.

    Clean data of variance 1 have the variance ``1 + sigma^2`` at this level. The highest level of a
    variance-preserving process is not very large (about 14.6), so the 1 matters.
    """
    return noise * math.sqrt(1 + sigma**2)


def uniform(table: Tensor, steps: int) -> Tensor:
    """Timesteps evenly spaced from the last to the first: "normal" in ComfyUI."""
    return at_times(table, torch.linspace(len(table) - 1, 0, steps, dtype=torch.float64))


def linspace(table: Tensor, steps: int) -> Tensor:
    """Timesteps as in :func:`uniform`, but with levels interpolated in sigma, not in log sigma.

    This is "linspace" in diffusers' configs.
    """
    times = np.linspace(len(table) - 1, 0, steps)
    return _end(torch.from_numpy(np.interp(times, np.arange(len(table)), table.double().numpy())))


def sgm_uniform(table: Tensor, steps: int) -> Tensor:
    """The noise levels of :func:`uniform` for ``steps + 1`` steps, without the last one.

    The omitted level belongs to timestep 0 and has almost no noise.
    """
    return at_times(table, torch.linspace(len(table) - 1, 0, steps + 1, dtype=torch.float64)[:-1])


def simple(table: Tensor, steps: int) -> Tensor:
    """Every (T / steps)-th level of the table, from the last down."""
    index = [len(table) - 1 - int(i * len(table) / steps) for i in range(steps)]
    return _end(table[index])


def trailing(table: Tensor, steps: int) -> Tensor:
    """Evenly spaced integer timesteps, counted down from T.

    Lin et al. 2023, arXiv:2305.08891, section 3.3.
    """
    times = np.round(np.arange(len(table), 0, -len(table) / steps))[:steps] - 1
    return at_times(table, torch.from_numpy(times))


def leading(table: Tensor, steps: int, offset: int = 1) -> Tensor:
    """Evenly spaced integer timesteps, counted up from `offset`.

    Stable Diffusion's own configs use them.

    With few steps, the schedule does not reach the last timestep.
    """
    times = np.arange(min(steps, len(table))) * (len(table) // min(steps, len(table)))
    return at_times(table, torch.from_numpy(times[::-1].copy() + offset))


def karras(table: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    """Levels evenly spaced in sigma^(1/rho) (Karras et al. 2022, arXiv:2206.00364, equation 5)."""
    low, high = float(table[0]) ** (1 / rho), float(table[-1]) ** (1 / rho)
    return _end(torch.linspace(high, low, steps, dtype=torch.float64) ** rho)


def exponential(table: Tensor, steps: int) -> Tensor:
    """Levels evenly spaced in log sigma."""
    logs = table.double().log()
    return _end(torch.linspace(float(logs[-1]), float(logs[0]), steps, dtype=torch.float64).exp())


def beta(table: Tensor, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Timesteps at evenly spaced quantiles of a beta distribution, denser at both ends.

    Lee et al. 2024, arXiv:2407.12173.
    """
    times = np.round(
        _quantiles(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta) * (len(table) - 1)
    )
    return at_times(table, torch.from_numpy(times))


def _quantiles(
    shares: NDArray[np.float64], alpha: float = 0.6, beta: float = 0.6
) -> NDArray[np.float64]:
    from scipy.stats import beta as distribution

    found: NDArray[np.float64] = distribution.ppf(shares, alpha, beta)
    return found


SCHEDULES: dict[str, Schedule] = {
    "uniform": uniform,
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "linspace": linspace,
    "trailing": trailing,
    "leading": leading,
}


def spaced(
    table: Tensor, steps: int, name: str, offset: int = 0, rule: Rule = "all", distilled: int = 50
) -> Tensor:
    """Return the schedule that a checkpoint's config names.

    Parameters
    ----------
    table : Tensor
        The model's noise levels, increasing.
    steps : int
    name : {"linspace", "trailing", "leading"}
        diffusers' name of the spacing.
    offset : int
        First timestep of "leading".
    rule : {"all", "solver", "lcm"}
        Multistep solvers ("solver") compute one more timestep and drop the smallest, except with
        "trailing". Other schedulers ("all") use the spacing unchanged. LCM ("lcm") ignores
        `name`: it takes evenly spaced timesteps from those that its network was distilled on.
    distilled : int
        For "lcm", the number of timesteps that the network was distilled on.
    """
    count = len(table)
    if rule == "lcm":
        known = (np.arange(1, min(distilled, count) + 1) * (count // min(distilled, count)) - 1)[
            ::-1
        ]
        times = known[np.floor(np.linspace(0, len(known), steps, endpoint=False)).astype(int)]
    elif rule == "solver" and name != "trailing":
        most = min(steps, count - 1) + 1
        even = (
            np.linspace(0, count - 1, most).round()
            if name == "linspace"
            else np.arange(most) * (count // most) + offset
        )
        times = even[:0:-1]
    else:
        own: dict[str, Schedule] = {
            "linspace": linspace,
            "trailing": trailing,
            "leading": functools.partial(leading, offset=offset),
        }
        return own[name](table, steps)
    return at_times(table, torch.from_numpy(times.copy()))


def shaped(levels: Tensor, steps: int, name: str) -> Tensor:
    """Return a Karras, exponential or beta schedule between the ends of increasing `levels`.

    The keys ``use_karras_sigmas``, ``use_exponential_sigmas`` and ``use_beta_sigmas`` in a
    checkpoint's config select the schedule.

    With "beta", the quantiles of the beta distribution are noise levels; in :func:`beta`, they are
    timesteps.
    """
    if name != "beta":
        return SCHEDULES[name](levels, steps)
    quantiles = torch.from_numpy(_quantiles(1 - np.linspace(0, 1, steps)))
    return _end(levels[0] + quantiles * (levels[-1] - levels[0]))
