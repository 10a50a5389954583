"""Configs of a model folder: diffusers' scheduler config, and the model's default options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor

from sfumato.config import Config
from sfumato.denoiser.denoiser import prediction
from sfumato.denoiser.precondition import Times
from sfumato.errors import ConfigError, unknown
from sfumato.hub.files import read_json
from sfumato.sampler.registry import NoiseSource, build, sampler_name
from sfumato.sampler.schedule import Rule, shaped, spaced
from sfumato.types import Sampler

# Ignored keys: they tune samplers, whose details are fixed here, or they clip pixels, which latent
# models do not need.
IGNORED = frozenset(
    "clip_sample clip_sample_range dynamic_thresholding_ratio sample_max_value skip_prk_steps "
    "solver_type flow_shift lambda_min_clipped variance_type use_dynamic_shifting "
    "time_shift_type sigma_min sigma_max timestep_scaling rho".split()
)
# Keys with one supported value; with other values, the trajectories would be different.
ONLY: dict[str, Any] = {
    "thresholding": False,
    "use_flow_sigmas": False,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "shift_terminal": None,
    "use_lu_lambdas": False,
    "timestep_type": "discrete",
    "interpolation_type": "linear",
    "predict_x0": True,
    "disable_corrector": [],
    "solver_p": None,
}
# values of solver_type that are not supported; diffusers replaces all others by its default
OTHER_SOLVERS = {"DPMSolverMultistepScheduler": "heun", "UniPCMultistepScheduler": "bh1"}
XL_GUIDANCE = 5.0  # usual guidance scale of SD XL
# pipelines with a U-Net on pixels, without text
PLAIN = frozenset({"DDPMPipeline", "DDIMPipeline", "PNDMPipeline"})
# scheduler classes whose default spacing is "leading"; all others default to "linspace"
LEADING = frozenset(
    {"DDIMScheduler", "DDPMScheduler", "LCMScheduler", "PNDMScheduler", "TCDScheduler"}
)
# spacing rules of the samplers' scheduler classes; the rule of all other samplers is "all"
RULES: dict[str, Rule] = {
    "dpmpp_2m": "solver",
    "dpmpp_2m_sde": "solver",
    "unipc": "solver",
    "lcm": "lcm",
}


class SchedulerConfig(Config):
    """Config in ``scheduler/scheduler_config.json``.

    It defines the noise levels of training and the spacing of the sampler steps.
    """

    num_train_timesteps: int = Field(1000, ge=2, le=100_000)
    beta_start: float = Field(0.0001, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    beta_schedule: str = "linear"
    trained_betas: None = None
    prediction_type: str = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True  # False: sampling ends at the lowest noise level, not at zero
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    # True: the last step of a solver is of first order (UniPC: always; others: below 15 steps)
    lower_order_final: bool = True
    euler_at_final: bool = False  # True: the last step is of first order, except for UniPC
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    # for LCMScheduler: the number of steps that its network was distilled with
    original_inference_steps: int = Field(50, ge=1)
    sampler: str = "dpmpp_2m"  # our own key, derived from the class name

    @classmethod
    def from_file(cls, data: Mapping[str, Any], source: str) -> SchedulerConfig:
        """Read a diffusers config; the defaults of missing keys depend on the scheduler class."""
        kind = str(data.get("_class_name", "DDIMScheduler"))
        stochastic = data.get("algorithm_type") == "sde-dpmsolver++"
        if kind == "DEISMultistepScheduler":  # its sampler is not implemented
            data = {k: v for k, v in data.items() if k != "algorithm_type"}
        wrong = [
            k
            for k, form in ONLY.items()
            if data.get(k, form) != form and not (stochastic and k == "algorithm_type")
        ]
        if wrong:
            raise ConfigError(
                f"{source}: {wrong[0]} is {data[wrong[0]]!r}; only {ONLY[wrong[0]]!r} is supported"
            )
        solver = data.get("solver_type")
        if solver is not None and solver == OTHER_SOLVERS.get(kind):
            raise ConfigError(f"{source}: solver_type {solver!r} is not supported")
        known = {k: v for k, v in data.items() if k not in IGNORED and k not in ONLY}
        known.setdefault("timestep_spacing", "leading" if kind in LEADING else "linspace")
        try:
            known["sampler"] = "dpmpp_2m_sde" if stochastic else sampler_name(kind)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
        return cls.read(known, source)

    @property
    def kind(self) -> str:
        """Our name for the network's prediction type."""
        return prediction(self.prediction_type)

    def times(self) -> Times:
        """The discrete timesteps that the network was trained on."""
        return Times.from_betas(
            self.beta_schedule,
            self.beta_start,
            self.beta_end,
            self.num_train_timesteps,
            zero_snr=self.rescale_betas_zero_snr,
        )

    @property
    def rule(self) -> Rule:
        """How diffusers' scheduler class for the sampler computes its timesteps.

        This is the `rule` of :func:`sfumato.sampler.schedule.spaced`.
        """
        return RULES.get(self.sampler, "all")

    def bound_sampler(
        self, name: str | None, noise: NoiseSource, steps: int, eta: float | None = None
    ) -> Sampler:
        """Return the sampler `name`, set up for the checkpoint's noise levels.

        Without `name`, it is the sampler of the checkpoint's config. The last of `steps` steps is
        of first order where the config asks for it, as in diffusers.
        """
        name = name or self.sampler
        is_unipc = name == "unipc"
        lowered = self.lower_order_final and (is_unipc or steps < 15)
        first_order = lowered or (self.euler_at_final and not is_unipc)
        return build(name, noise, eta, first_order_end=first_order)

    def default_sigmas(self, table: Tensor, steps: int, sampler: str) -> Tensor:
        """Return noise levels (steps + 1,), spaced as the checkpoint's config asks.

        The last level is zero by default. The config can change it: with ``final_sigmas_type`` for
        all samplers, with ``set_alpha_to_one`` for DDIM and DDPM only.
        """
        levels = spaced(
            table,
            steps,
            self.timestep_spacing,
            self.steps_offset,
            self.rule,
            self.original_inference_steps,
        )
        shape = next(
            (n for n in ("karras", "exponential", "beta") if getattr(self, f"use_{n}_sigmas")), None
        )
        if shape is not None:
            levels = shaped(table if self.rule == "solver" else levels[:-1].flip(0), steps, shape)
        stop_early = self.final_sigmas_type == "sigma_min" or (
            not self.set_alpha_to_one and sampler in ("ddim", "ddpm")
        )
        return torch.cat(
            [levels[:-1], levels.new_full((1,), float(table[0]) if stop_early else 0.0)]
        )


class Defaults(Config):
    """A model's default options, from ``sfumato.json`` in its folder. All keys are optional."""

    steps: int = Field(20, ge=1)
    guidance_scale: float = 7.5
    best_of: int = Field(1, ge=1, le=64)  # candidates per picture; more than one needs a matcher
    size: tuple[int, int] | None = None  # width, height in pixels; default: the U-Net's sample size
    needs_prompt: bool = False
    style: str | None = None  # one of `styles`
    styles: dict[str, str] = {}  # name of a style -> its words in the prompt
    description: str = ""
    license: str = Field("", validation_alias=AliasChoices("license", "licence"))

    @model_validator(mode="after")
    def _known_style(self) -> Defaults:
        if self.style is not None and self.style not in self.styles:
            raise unknown("style", self.style, self.styles)
        return self


def defaults_of(folder: Path, index: Mapping[str, Any]) -> Defaults:
    """Read ``sfumato.json`` of a model's folder.

    Without this file, return the defaults for this kind of model: SD, SD XL, or a model without
    text. `index` is the content of ``model_index.json``.
    """
    own = folder / "sfumato.json"
    if own.exists():
        return Defaults.read(read_json(own), str(own))
    if index.get("_class_name") in PLAIN:
        return Defaults(guidance_scale=1.0)
    return Defaults(guidance_scale=XL_GUIDANCE) if "text_encoder_2" in index else Defaults()


def default_side(sample_size: int | None, factor: int) -> int:
    """Default width and height in pixels of a U-Net's pictures.

    `factor` is the downsampling factor of the autoencoder; 64 is diffusers' default sample size.
    """
    return (sample_size or 64) * factor
