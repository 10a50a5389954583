"""The options of `create`: one record for library and command line, validated in one place."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from sfumato.errors import OptionError
from sfumato.runtime import legible
from sfumato.sampler.registry import sampler_name, schedule_name
from sfumato.types import Options


class CreateOptions(Options):
    """How to make pictures. What is None is the model's own default.

    Examples
    --------
    >>> CreateOptions(sampler="DPM++ 2M").sampler
    'dpmpp_2m'
    >>> CreateOptions(sampler="DPM++ 2M Karras").schedule
    'karras'
    """

    model: str = "icons"
    count: int = Field(1, ge=1, le=100_000)  # pictures per prompt, of seeds seed, seed + 1, ...
    seed: int | None = Field(None, ge=0, lt=2**63)
    best_of: int | None = Field(None, ge=1, le=64)  # tries per picture, of which the one that matches its text best is kept
    candidate: int | None = Field(None, ge=0, lt=64)  # make this try alone, as a picture's settings name the one that was kept
    steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    negative_prompt: str = ""
    sampler: str | None = None
    schedule: str = "auto"
    eta: float | None = Field(None, ge=0, le=1)
    style: str | None = None
    size: tuple[int, int] | None = None  # width, height
    source: str | None = None  # a picture to start from
    strength: float = Field(0.6, gt=0, le=1)  # how much of it is made anew
    mask: str | None = None  # white = make anew; what is black stays bit for bit
    device: str = "auto"
    dtype: str = "auto"
    batch: int = Field(8, ge=1)  # pictures made at once

    @model_validator(mode="before")
    @classmethod
    def _spelled_together(cls, data: Any) -> Any:
        """A sampler and its schedule in one name, as "DPM++ 2M Karras"."""
        known = isinstance(data, dict) and re.fullmatch(r"(.+?)[ _](karras|exponential)", str(data.get("sampler")).strip(), re.IGNORECASE)
        if known and data.get("schedule", "auto") == "auto":
            return {**data, "sampler": known[1], "schedule": known[2]}
        return data

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, size: Any) -> Any:
        if not isinstance(size, str):
            return size
        if not (match := re.fullmatch(r"(\d+)\s*[xX]\s*(\d+)", size)):
            raise OptionError(f'size "{size}" cannot be read; write WIDTHxHEIGHT, as 64x64')
        return int(match[1]), int(match[2])

    @field_validator("negative_prompt")
    @classmethod
    def _negative(cls, text: str) -> str:
        return legible(text)

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, name: str | None) -> str | None:
        return None if name is None else sampler_name(name)

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, name: str) -> str:
        return schedule_name(name)
