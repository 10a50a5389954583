"""How to train, whatever is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sfumato.types import Config


class TrainSettings(Config):
    """How to train; what is trained is a :class:`Job`."""

    steps: int = Field(20_000, ge=1)
    batch: int = Field(64, ge=1)
    rate: float = Field(1e-3, gt=0)  # learning rate
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon learns more a step where most weights are kernels and matrices
    warmup: int = Field(200, ge=0)  # steps of linear rise
    cooldown: float = Field(0.2, ge=0, le=1)  # share of the steps in which the rate falls to zero
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    average: float = Field(0.999, ge=0, lt=1)  # decay of the moving average of the weights; 0: none
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = "auto"
    dtype: str = "auto"  # of mixed precision; float32 turns it off, auto does where the device has no bfloat16
    checkpoint_every: int = Field(500, ge=1)
    preview_every: int = Field(1000, ge=1)
