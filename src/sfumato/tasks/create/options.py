"""The options of `create`: one record for library, command line and server.

Modules that need torch are imported inside the validators, not at the top, so that the command line
starts quickly.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator, model_validator

from sfumato.config import DEVICES, option
from sfumato.errors import OptionError
from sfumato.tasks.options import PictureOptions

SAMPLING, START, COMPUTING = "Sampling", "Start from a picture", "Model and computing"
BRANCH = "Changes from a step on"
NO_PROMPT = "no prompt given; say what the picture shows, or give --prompts FILE"


class CreateOptions(PictureOptions):
    """How to generate pictures.

    An option that is None takes the model's default, if the model has one.

    Examples
    --------
    >>> CreateOptions(sampler="DPM++ 2M").sampler
    'dpmpp_2m'
    >>> CreateOptions(sampler="DPM++ 2M Karras").schedule
    'karras'
    """

    model: str = option(
        "icons", "A bundled model; or Stable Diffusion 1, 2 or XL: a folder in diffusers' layout "
        "or a "
                 ".safetensors file.",
        group=COMPUTING,
    )  # fmt: skip
    count: int = option(1, "Pictures per prompt; each has the next seed.", ge=1, le=100_000)
    seed: int | None = option(
        None, "The same seed gives the same picture. Random by default.", ge=0, lt=2**63
    )
    best_of: int | None = option(
        None,
        "Candidates per picture; the candidate that matches the prompt best is kept. The default "
        "depends on the model.",
        ge=1,
        le=64,
    )
    candidate: int | None = option(
        None,
        "Generate only the candidate with this index, counted from 0. A picture's settings "
        "contain the index of the kept candidate.",
        ge=0,
        lt=64,
    )
    steps: int | None = option(
        None, "Sampler steps; the model's own number by default.", group=SAMPLING, ge=1, le=1000
    )
    fast: bool = option(
        False,
        "Use the model's student, which was distilled to take few steps without guidance. For "
        "icons, it takes four steps and less than half the time.",
        group=SAMPLING,
    )
    guidance_scale: float | None = option(
        None, "How closely to follow the text; 1 turns guidance off.", group=SAMPLING, ge=0, le=100
    )
    guidance_rescale: float = option(
        0.0,
        "Undo the contrast that guidance adds: 0 not at all, 1 completely.",
        group=SAMPLING,
        ge=0,
        le=1,
    )
    negative_prompt: str = option(
        "", "What the picture should not show.", flags="--negative --negative-prompt"
    )
    sampler: str | None = option(
        None,
        "Sampler, such as dpmpp_2m, 'DPM++ 2M' or DPMSolverMultistepScheduler.",
        group=SAMPLING,
    )
    schedule: str = option(
        "auto",
        "Schedule of noise levels: auto (the model's own), uniform, karras, exponential, beta, "
        "sgm_uniform, simple, linspace, trailing, leading.",
        group=SAMPLING,
    )
    eta: float | None = option(
        None,
        "Amount of noise that the sampler adds at each step; only some samplers add noise.",
        group=SAMPLING,
        ge=0,
        le=1,
    )
    then_step: int | None = option(
        None,
        "Step, counted from 1, from which --then and --then-guidance-scale apply.",
        group=BRANCH,
        ge=1,
        le=1000,
    )
    then: str | None = option(
        None, "Prompt from --then-step on; by default the original prompt.", group=BRANCH
    )
    then_guidance_scale: float | None = option(
        None, "How closely to follow the text from --then-step on.", group=BRANCH, ge=0, le=100
    )
    style: str | None = option(
        None, "Style of the picture; sfumato models lists the styles of a model."
    )
    size: tuple[int, int] | None = option(
        None,
        "Width and height in pixels; one number for both. A model with an upscaler, such as "
        "icons, generates pictures at its own size and then enlarges or shrinks them.",
        metavar="WxH",
    )
    transparent: bool = option(
        False, "Make the white background transparent, without a white fringe around the subject."
    )
    source: str | bytes | None = option(
        None,
        "File of the picture to start from.",
        flags="--from",
        group=START,
        is_picture=True,
    )
    strength: float = option(
        0.6,
        "How much the picture of --from changes; 1 keeps only its size.",
        group=START,
        gt=0,
        le=1,
    )
    mask: str | bytes | None = option(
        None,
        "File of a mask picture. White pixels are inpainted. The other pixels are copied without "
        "any change; only a JPEG output changes them slightly.",
        group=START,
        is_picture=True,
    )
    loras: tuple[str, ...] = option(
        (),
        "File or folder of a LoRA, written by sfumato train diffusion --start or made for Stable "
        "Diffusion. PATH:0.8 applies the LoRA at a scale of 0.8. Can be given several times.",
        flags="--lora",
        group=COMPUTING,
        metavar="PATH[:SCALE]",
    )
    device: str = option("auto", DEVICES, group=COMPUTING)
    dtype: str = option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is float32 on a CPU, and bfloat16 on a GPU that "
        "supports it.",
        group=COMPUTING,
    )
    batch: int = option(
        8, "Pictures generated at once; fewer need less memory.", group=COMPUTING, ge=1
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled_together(cls, data: Any) -> Any:
        """Split a name of both sampler and schedule, such as "DPM++ 2M Karras"."""
        if not isinstance(data, dict):
            return data
        named = re.fullmatch(
            r"(.+?)[ _](karras|exponential)", str(data.get("sampler")).strip(), re.IGNORECASE
        )
        if named is None:
            return data
        from sfumato.sampler.registry import schedule_name

        schedule = schedule_name(str(data.get("schedule", "auto")))
        if schedule not in ("auto", named[2].lower()):
            raise OptionError(
                f'the sampler name "{named[0]}" contains a schedule, but --schedule is {schedule}; '
                "give only one of them"
            )
        return {**data, "sampler": named[1], "schedule": named[2]}

    @field_validator("loras", mode="before")
    @classmethod
    def _loras(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _branch(self) -> CreateOptions:
        changed = self.then is not None or self.then_guidance_scale is not None
        if changed and self.then_step is None:
            raise OptionError(
                "--then and --then-guidance-scale need --then-step, the step from which they apply"
            )
        if self.then_step is not None and not changed:
            raise OptionError("--then-step changes nothing without --then or --then-guidance-scale")
        return self

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, size: Any) -> Any:
        if isinstance(size, int) and not isinstance(size, bool):
            return cls._size(f"{size}")
        if not isinstance(size, str):
            return size
        if not (match := re.fullmatch(r"(\d+)(?:\s*[xX]\s*(\d+))?", size)):
            raise OptionError(
                f'size "{size}" cannot be read; write WIDTHxHEIGHT, such as 256x128, or one '
                "number, such as 256"
            )
        return int(match[1]), int(match[2] or match[1])

    @field_validator("size")
    @classmethod
    def _has_pixels(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and min(size) < 1:
            raise OptionError(f"size {size[0]}x{size[1]}: both sides must be at least 1 pixel")
        return size

    @field_validator("negative_prompt", "then")
    @classmethod
    def _legible(cls, text: str | None) -> str | None:
        from sfumato.runtime import replace_surrogates

        return None if text is None else replace_surrogates(text)

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, name: str | None) -> str | None:
        from sfumato.sampler.registry import sampler_name

        return None if name is None else sampler_name(name)

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, name: str) -> str:
        from sfumato.sampler.registry import schedule_name

        return schedule_name(name)
