"""Write model folders that both diffusers and this package can open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sfumato.condition.clip import CLIPText
from sfumato.condition.matcher import Matcher
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.restorer import Restorer
from sfumato.denoiser.unet import UNet
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.runtime import atomic
from sfumato.space.kl import AutoencoderKL

DIFFUSERS = "0.31.0"  # the oldest version with this layout


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically."""
    with atomic(path) as scratch:
        scratch.write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Write a network's weights as safetensors."""
    with atomic(path) as scratch:
        save_file(
            {k: v.detach().to(dtype).contiguous().cpu() for k, v in network.state_dict().items()},
            scratch,
            {"format": "pt"},
        )


def save_network(
    network: UNet | AutoencoderKL | Restorer | Matcher,
    folder: Path,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write ``config.json`` and the weights of a U-Net, an autoencoder, a restorer or a matcher."""
    name = "UNet2DConditionModel" if isinstance(network, UNet) else type(network).__name__
    write_json(
        folder / "config.json",
        {
            "_class_name": name,
            "_diffusers_version": DIFFUSERS,
            **network.config.model_dump(mode="json"),
        },
    )
    save_weights(network, folder / "diffusion_pytorch_model.safetensors", dtype)


def save_text(
    clip: CLIPText, tokenizer: CLIPTokenizer, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write ``text_encoder/`` and ``tokenizer/``."""
    settings = clip.config.model_dump(exclude={"with_projection"})
    kind = "CLIPTextModelWithProjection" if clip.config.with_projection else "CLIPTextModel"
    # without a dtype in the config, transformers would use the dtype of the weight file; diffusers
    # runs the other networks in float32
    head = {
        "architectures": [kind],
        "model_type": "clip_text_model",
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    write_json(folder / "text_encoder" / "config.json", {**head, **settings})
    save_weights(clip, folder / "text_encoder" / "model.safetensors", dtype)
    tokenizer.save(folder / "tokenizer")


SOLVER = "DPMSolverMultistepScheduler"
CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
}


def scheduler_class(config: SchedulerConfig) -> str:
    """Return diffusers' scheduler class for a config's sampler, or else DPM-Solver++'s class."""
    return CLASSES.get(config.sampler, SOLVER)


def save_scheduler(config: SchedulerConfig, folder: Path) -> None:
    """Write the scheduler's config with diffusers' class for its sampler."""
    always = {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
        "timestep_spacing",
        "steps_offset",
    }
    settings = config.model_dump(include=always) | config.model_dump(
        exclude={*always, "sampler", "trained_betas"}, exclude_defaults=True
    )
    head: dict[str, Any] = {
        "_class_name": scheduler_class(config),
        "_diffusers_version": DIFFUSERS,
    }
    if head["_class_name"] == SOLVER:
        kind = "sde-dpmsolver++" if config.sampler == "dpmpp_2m_sde" else "dpmsolver++"
        head |= {"algorithm_type": kind, "solver_order": 2}
    write_json(folder / "scheduler_config.json", {**head, **settings})


def save_index(
    folder: Path, defaults: Defaults, scheduler: SchedulerConfig, *, pixels: bool = False
) -> None:
    """Write ``model_index.json`` and ``sfumato.json``.

    Call this function last: the index marks the folder as complete. With `pixels`, the model has no
    ``vae/``.
    """
    write_json(folder / "sfumato.json", defaults.model_dump(mode="json", exclude_defaults=True))
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": [None, None] if pixels else ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", scheduler_class(scheduler)],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    head = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": DIFFUSERS,
        "requires_safety_checker": False,
    }
    write_json(folder / "model_index.json", {**head, **parts})
