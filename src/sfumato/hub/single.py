"""Single-file checkpoints of Stable Diffusion 1, 2 and XL.

One safetensors file holds all networks, without a config.

Weights have the names of the original code ("latent diffusion", and OpenCLIP for the larger text
encoders). Each of our names is translated and looked up, so an error can name a missing weight. The
file holds neither the config nor CLIP's vocabulary. Both follow from the model family, which the
shape of a cross-attention weight identifies; the first convolution gives the number of input
channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ModelError
from sfumato.hub.config import XL_GUIDANCE, Defaults, SchedulerConfig
from sfumato.hub.files import decoded_in, filled, read_weights
from sfumato.hub.names import Text, clip_weights, names_of, unet_name, vae_name, weight_of
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.pixels import Pixels

C = TypeVar("C")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TELLING = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
# weights that only Playground 2.5 and CosXL have
ODD = frozenset({"edm_mean", "edm_std", "edm_vpred.sigma_max"})
SHAPES = {
    "width": f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    "channels": f"{UNET}input_blocks.0.0.weight",
}


@dataclass(frozen=True)
class Parts:
    """The parts of a model, before they are moved to a device."""

    weights: Path
    unet: UNet
    space: AutoencoderKL | Pixels
    texts: list[TextEncoder]
    scheduler: SchedulerConfig
    defaults: Defaults
    zero_empty: bool = False  # the states of an empty prompt are zeros (SD XL)


@dataclass(frozen=True)
class Family:
    """The configs that all checkpoints of a family share."""

    name: str
    unet: UNetConfig
    texts: tuple[Text, ...]
    prediction: str = "epsilon"
    guidance: float = 7.5
    vae: AutoencoderConfig = AutoencoderConfig()


CLIP_L = CLIPTextConfig(pad_token_id=49407)
CLIP_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
    pad_token_id=0,
)
CLIP_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    pad_token_id=0,
    projection_dim=1280,
    with_projection=True,
)
# Key: size of the text states in cross-attention. SD 2's file has 24 text layers; the last one is
# not used.
FAMILIES = {
    768: Family(
        "Stable Diffusion 1",
        UNetConfig(sample_size=64, cross_attention_dim=768),
        (Text("cond_stage_model.transformer.", CLIP_L, False),),
    ),
    1024: Family(
        "Stable Diffusion 2",
        UNetConfig(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        (Text("cond_stage_model.model.", CLIP_H, True),),
        prediction="v_prediction",
    ),
    2048: Family(
        "Stable Diffusion XL",
        UNetConfig(
            sample_size=128,
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        (
            Text("conditioner.embedders.0.transformer.", CLIP_L, False),
            Text("conditioner.embedders.1.model.", CLIP_G, True),
        ),
        guidance=XL_GUIDANCE,
        vae=AutoencoderConfig(scaling_factor=0.13025),
    ),
}


def read(path: Path, dtype: torch.dtype = torch.float32) -> Parts:
    """Open a checkpoint with its weights in `dtype`.

    Raises
    ------
    ModelError
        If the file is truncated, belongs to no known family, or lacks a weight.
    """
    family, notes = identify(path)
    weights, name = {_plain(k): v for k, v in read_weights(path).items()}, str(path)
    _check_whole(path, family, weights)
    predicted = prediction_type(family, notes, weights)
    names = names_of(UNet, family.unet, unet_name)
    unet = filled(UNet, family.unet, _take(weights, UNET, names, name), name, dtype)
    if unknown := sorted(k for k in weights if k.startswith(UNET)):
        raise ModelError(
            f"{path} has weight {unknown[0]} ({len(unknown)} in all), which no U-Net of "
            f"{family.name} has; its U-Net is of another kind"
        )
    names = names_of(AutoencoderKL, family.vae, vae_name)
    taken = _take(weights, VAE, names, name)
    space = filled(AutoencoderKL, family.vae, taken, name, decoded_in(dtype))
    xl = len(family.texts) == 2
    texts = []
    for part in family.texts:
        clip = filled(CLIPText, part.config, clip_weights(weights, part, name), name, dtype)
        tokenizer = CLIPTokenizer.original(pad="!" if part.config.pad_token_id == 0 else None)
        texts.append(TextEncoder(clip.eval(), tokenizer, skip=int(xl), normed=not xl))
    scheduler = SchedulerConfig(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type=predicted,
        rescale_betas_zero_snr="ztsnr" in weights,
    )
    defaults = Defaults(guidance_scale=family.guidance)
    return Parts(path, unet, space, texts, scheduler, defaults, zero_empty=xl)


def _check_whole(path: Path, family: Family, weights: Mapping[str, Tensor]) -> None:
    """Raise an error if a file lacks a part, or its network uses another noise scaling."""
    for prefix, what in ((VAE, "autoencoder"), (family.texts[0].prefix, "text encoder")):
        if not any(k.startswith(prefix) for k in weights):
            raise ModelError(
                f"{path} has no {what}: it holds a U-Net of {family.name}, not a whole checkpoint"
            )
    if odd := sorted(ODD & weights.keys()):
        raise ModelError(
            f"{path} was trained with another noise scaling ({odd[0]}), which is not supported"
        )


OTHERS = {  # other kinds of file, by patterns of weight names; the first match counts
    "a LoRA": r"lora_|\.lora\.|\.hada_|\.lokr_|\.oft_",
    "a ControlNet": r"control_model\.|controlnet_|input_hint_block|zero_convs",
    "a textual inversion": r"emb_params|string_to_param|^clip_[lg]$",
    "an IP-Adapter": r"^(ip_adapter|image_proj)\.",
    "a Stable Diffusion 3 checkpoint": r"joint_blocks\.",
    "a Flux checkpoint": r"double_blocks\.",
    "a U-Net alone": r"^(input_blocks|time_embed|down_blocks)\.",
    "an autoencoder alone": (
        r"^(first_stage_model\.)?(encoder\.(conv_in|down)|decoder\.(conv_in|up)|quant_conv)"
    ),
    "a text encoder alone": r"^(text_model|transformer\.resblocks|encoder\.layers)\.",
}


def _plain(name: str) -> str:
    """Normalize a weight's name.

    The prefix of training programs is dropped, and the autoencoder's attention gets the names of
    the original code.
    """
    name = name.removeprefix("state_dict.")
    if name.startswith(VAE) and ".attn_1." in name:
        return (
            re.sub(r"\.to_([qkv])\.", r".\1.", name)
            .replace(".to_out.0.", ".proj_out.")
            .replace(".group_norm.", ".norm.")
        )
    return name


def _what_it_is(names: set[str]) -> str | None:
    """Return the kind of a file that is not a whole checkpoint; None if it is not known."""
    return next(
        (what for what, pattern in OTHERS.items() if any(re.search(pattern, n) for n in names)),
        None,
    )


def identify(path: Path) -> tuple[Family, dict[str, str]]:
    """Return the model family of a file, and the metadata of its header; no weight is read.

    The family's U-Net config gets the number of input channels from the file.
    """
    try:
        with safe_open(path, framework="pt") as f:
            have, notes = {_plain(name): name for name in f.keys()}, f.metadata() or {}  # noqa: SIM118 (it is no dict)
            missing = [name for name in SHAPES.values() if name not in have]
            if missing:
                found = _what_it_is(set(have))
                why = f"it is {found}" if found else f"it lacks {missing[0]}"
                raise ModelError(
                    f"{path} is no whole checkpoint of Stable Diffusion 1, 2 or XL: {why}"
                )
            if any(name.endswith("scale_weight") for name in have):
                raise ModelError(
                    f"{path} holds scaled 8-bit weights, which are not supported; convert it to "
                    "float16"
                )
            shapes = {k: [*f.get_slice(have[name]).get_shape(), 0, 0] for k, name in SHAPES.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); the file may be truncated"
        ) from None
    width, channels = shapes["width"][1], shapes["channels"][1]
    if width not in FAMILIES:
        raise ModelError(
            f"{path}: text states of {width} values belong to none of the known families (Stable "
            "Diffusion 1, 2, XL)"
        )
    family = FAMILIES[width]
    return replace(family, unet=family.unet.model_copy(update={"in_channels": channels})), notes


def prediction_type(family: Family, notes: Mapping[str, str], weights: Mapping[str, Tensor]) -> str:
    """Return the U-Net's prediction type.

    It comes from the header, else from a marker among the weights. Without both, it is "epsilon",
    except in SD 2.

    In SD 2, the "768" models predict v; the "base" and inpainting models predict eps. More than 4
    input channels mean eps. Else ComfyUI's criterion decides: the values of one bias near the end
    of the U-Net vary more in models that predict v.
    """
    prediction = notes.get("modelspec.prediction_type")
    if prediction:
        return "v_prediction" if prediction.lower().startswith("v") else "epsilon"
    if "v_pred" in weights:
        return "v_prediction"
    if family.unet.in_channels != 4:
        return "epsilon"
    telling = weights.get(TELLING) if family.prediction == "v_prediction" else None
    return (
        family.prediction
        if telling is None or float(telling.float().std(correction=0)) > 0.09
        else "epsilon"
    )


def _take(
    weights: dict[str, Tensor], part: str, names: list[tuple[str, str]], source: str
) -> dict[str, Tensor]:
    """Move the weights of a part out of `weights`, and return them under our names.

    No weight is then in memory twice.
    """
    found = {ours: weight_of(weights, part + theirs, source) for ours, theirs in names}
    for _, theirs in names:
        del weights[part + theirs]
    return found
