"""Samplers by name: a table of samplers, and a table of their names in other programs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.errors import unknown
from sfumato.sampler import ode, sde
from sfumato.sampler.schedule import SCHEDULES
from sfumato.types import Sampler, Step

NoiseSource = Callable[[Tensor], Tensor]
"""Returns standard normal noise of the shape of a tensor."""


@dataclass(frozen=True)
class Entry:
    """A sampler and its properties.

    Attributes
    ----------
    run : callable
        A generator of steps; it also takes `noise` if `stochastic`.
    order : int
        Order of convergence in the number of steps (weak order if `stochastic`). 0 if the sampler
        does not converge to the model's distribution; it then needs a distilled model.
    evaluations : int
        Network evaluations per step.
    stochastic : bool
    label : str
        Name of the sampler in A1111, for the metadata of pictures.
    """

    run: Callable[..., Iterator[Step]]
    order: int
    evaluations: int
    stochastic: bool
    label: str


SAMPLERS: dict[str, Entry] = {
    "ddpm": Entry(sde.euler_ancestral, 1, 1, True, "DDPM"),
    "ddim": Entry(functools.partial(sde.euler_ancestral, eta=0.0), 1, 1, True, "DDIM"),
    "euler": Entry(ode.euler, 1, 1, False, "Euler"),
    "euler_ancestral": Entry(sde.euler_ancestral, 1, 1, True, "Euler a"),
    "heun": Entry(ode.heun, 2, 2, False, "Heun"),
    "dpm2": Entry(ode.dpm2, 2, 2, False, "DPM2"),
    "lms": Entry(ode.lms, 2, 1, False, "LMS"),
    "dpmpp_2m": Entry(ode.dpmpp_2m, 2, 1, False, "DPM++ 2M"),
    "dpmpp_2m_sde": Entry(sde.dpmpp_2m_sde, 2, 1, True, "DPM++ 2M SDE"),
    "dpmpp_sde": Entry(sde.dpmpp_sde, 2, 2, True, "DPM++ SDE"),
    "dpmpp_2s_ancestral": Entry(sde.dpmpp_2s_ancestral, 2, 2, True, "DPM++ 2S a"),
    "unipc": Entry(ode.unipc, 3, 1, False, "UniPC"),
    "lcm": Entry(sde.lcm, 0, 1, True, "LCM"),
}
# samplers whose last step can be set to first order
MULTISTEP = frozenset({"dpmpp_2m", "dpmpp_2m_sde", "unipc"})
WITH_ETA = frozenset({"ddim", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "dpmpp_2s_ancestral"})

# Other spellings, normalized by `_fold`: diffusers' classes, A1111's labels and ComfyUI's names.
ALIASES: dict[str, str] = {
    "eulerdiscrete": "euler",
    "flowmatcheulerdiscrete": "euler",
    "eulera": "euler_ancestral",
    "eulerancestraldiscrete": "euler_ancestral",
    "heundiscrete": "heun",
    "kdpm2discrete": "dpm2",
    "lmsdiscrete": "lms",
    "plms": "lms",
    "pndm": "lms",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmsolversde": "dpmpp_sde",
    "dpmpp2sa": "dpmpp_2s_ancestral",
    # not implemented; dpmpp_2m is nearest: deterministic, second order, one evaluation per step
    "dpmsolversinglestep": "dpmpp_2m",
    "deismultistep": "dpmpp_2m",
    "tcd": "lcm",  # not implemented; like LCM, for networks distilled to a few steps
    "unipcmultistep": "unipc",
}
SCHEDULE_ALIASES: dict[str, str] = {
    "automatic": "auto",
    "normal": "uniform",
    "ddimuniform": "leading",
    "ddim": "leading",
}
# A1111's names of the schedules; for those that it lacks, our names with capitals
SCHEDULE_LABELS: dict[str, str] = {
    "auto": "Automatic",
    "uniform": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "linspace": "Linspace",
    "trailing": "Trailing",
    "leading": "DDIM",
}


def _fold(name: str) -> str:
    """Normalize a name: lower-case letters and digits, ``pp`` for ``++``, no final "scheduler"."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp")).removesuffix("scheduler")


def sampler_name(name: str) -> str:
    """Return our name for a sampler, given any accepted spelling.

    Raises
    ------
    OptionError
        If the name matches no sampler; the message suggests the nearest one.

    Examples
    --------
    >>> names = "DPM++ 2M", "EulerAncestralDiscreteScheduler", "uni_pc", "k_euler"
    >>> [sampler_name(name) for name in names]
    ['dpmpp_2m', 'euler_ancestral', 'unipc', 'euler']
    """
    return _lookup("sampler", name, SAMPLERS, ALIASES)


def schedule_name(name: str) -> str:
    """Return our name for a schedule, given any accepted spelling.

    ``auto`` is the checkpoint's schedule.

    Examples
    --------
    >>> schedule_name("SGM Uniform")
    'sgm_uniform'
    """
    return _lookup("schedule", name, ["auto", *SCHEDULES], SCHEDULE_ALIASES)


def labels_of(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return A1111's names of the sampler and the schedule in the settings of a picture.

    Examples
    --------
    >>> labels_of({"sampler": "euler", "schedule": "auto"})
    ('Euler', 'Automatic')
    """
    schedule = settings["schedule"]
    own = schedule.replace("_", " ").title()
    return SAMPLERS[settings["sampler"]].label, SCHEDULE_LABELS.get(schedule, own)


def _lookup(what: str, name: str, known: object, aliases: dict[str, str]) -> str:
    names = list(known)  # type: ignore[call-overload]
    table = {_fold(n): n for n in names} | {_fold(a): n for a, n in aliases.items()}
    for spelling in (name, name.removeprefix("k_"), name.removeprefix("sample_")):
        if _fold(spelling) in table:
            out: str = table[_fold(spelling)]
            return out
    raise unknown(what, name, names)


def build(
    name: str,
    noise: NoiseSource,
    eta: float | None = None,
    *,
    first_order_end: bool = False,
) -> Sampler:
    """Return the named sampler with its options bound.

    The options are the noise source, eta and the order of the last step. Options that the sampler
    does not take are ignored.
    """
    own = sampler_name(name)
    entry = SAMPLERS[own]
    bound: dict[str, Any] = {"noise": noise} if entry.stochastic else {}
    if eta is not None and own in WITH_ETA:
        bound["eta"] = eta
    if first_order_end and own in MULTISTEP:
        bound["first_order_end"] = True
    return functools.partial(entry.run, **bound)
