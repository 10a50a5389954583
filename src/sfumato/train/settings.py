"""Training settings that all training commands share."""

from __future__ import annotations

from typing import Literal

from sfumato.config import Config, option


class TrainSettings(Config):
    """Training settings; the network and its loss belong to a :class:`Job`."""

    steps: int = option(20_000, "Training steps; docs/train.md has what is usual.", ge=1)
    batch: int = option(64, "Samples per step.", ge=1)
    learning_rate: float = option(1e-3, "Learning rate.", gt=0)
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "muon learns more a step where most weights are kernels and matrices."
    )
    warmup: int = option(200, "Steps of linear rise of the rate.", ge=0)
    cooldown: float = option(0.2, "Share of the steps in which the rate falls to zero.", ge=0, le=1)
    weight_decay: float = option(0.01, "Decay of the weights per step, times the rate.", ge=0)
    max_grad_norm: float = option(1.0, "Largest norm of the gradient.", gt=0)
    ema_decay: float = option(
        0.999, "Decay of the moving average of the weights; 0: none.", ge=0, lt=1
    )
    seed: int = option(0, "Seed of weights and batches.", ge=0, lt=2**63)
    device: str = option("auto", "auto, cpu, cuda or mps.")
    dtype: str = option(
        "auto",
        "Of mixed precision: auto, float32 (which turns it off), bfloat16 or float16; auto is what "
        "the device is good at.",
    )
    compile: bool = option(
        False, "Compile the network with torch.compile: pays on a GPU, in runs of many minutes."
    )
    checkpoint_every: int = option(500, "Steps between checkpoints.", ge=1)
    preview_every: int = option(1000, "Steps between previews.", ge=1)
