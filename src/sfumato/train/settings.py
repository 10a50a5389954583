"""Training settings that all training commands share."""

from __future__ import annotations

from typing import Literal

from sfumato.config import DEVICES, Config, option


class TrainSettings(Config):
    """Training settings; the network and its loss belong to a :class:`Job`."""

    steps: int = option(20_000, "Training steps; docs/train.md lists the usual numbers.", ge=1)
    batch: int = option(64, "Samples per step.", ge=1)
    learning_rate: float = option(1e-3, "Learning rate.", gt=0)
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "adamw or muon; muon learns more per step if most weights are kernels or matrices."
    )
    warmup: int = option(200, "Steps in which the learning rate rises linearly.", ge=0)
    cooldown: float = option(
        0.2, "Share of the steps, at the end, in which the learning rate falls to zero.", ge=0, le=1
    )
    weight_decay: float = option(
        0.01,
        "Weight decay; a step shrinks the weights by this value times the learning rate.",
        ge=0,
    )
    max_grad_norm: float = option(
        1.0, "Gradients with a larger norm are scaled down to this norm.", gt=0
    )
    ema_decay: float = option(
        0.999, "Decay of the moving average of the weights; 0 turns it off.", ge=0, lt=1
    )
    seed: int = option(0, "Seed of weights and batches.", ge=0, lt=2**63)
    device: str = option("auto", DEVICES)
    dtype: str = option(
        "auto",
        "Dtype of mixed precision: auto, float32 (turns it off), bfloat16 or float16; auto is "
        "bfloat16 on devices with native bfloat16, else float32.",
    )
    compile: bool = option(
        False, "Compile the network with torch.compile; saves time on GPUs in runs of many minutes."
    )
    checkpoint_every: int = option(500, "Steps between checkpoints.", ge=1)
    preview_every: int = option(1000, "Steps between previews.", ge=1)
