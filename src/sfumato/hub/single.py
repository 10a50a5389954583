"""Single-file checkpoints of Stable Diffusion 1, 2 and XL: all networks in one safetensors file,
without a config.

The file names its weights as the original code does ("latent diffusion", and OpenCLIP for the
larger text encoders). Each of our names is translated into theirs and looked up, so a weight that
is missing is known by name. What is not in the file (the config, CLIP's vocabulary) follows from
the family, which the shapes of two weights tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ModelError
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.files import decoded_in, filled, read_weights
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.pixels import Pixels

C = TypeVar("C")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TELLING = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
# marks of Playground 2.5 and of CosXL
ODD = frozenset({"edm_mean", "edm_std", "edm_vpred.sigma_max"})
SHAPES = {
    "width": f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    "channels": f"{UNET}input_blocks.0.0.weight",
}


@dataclass(frozen=True)
class Parts:
    """What a model is made of, before it is put on a device."""

    weights: Path
    unet: UNet
    space: AutoencoderKL | Pixels
    texts: list[TextEncoder]
    scheduler: SchedulerConfig
    defaults: Defaults
    zero_empty: bool = False  # SD XL: an empty prompt is all zeros


@dataclass(frozen=True)
class Text:
    """A text encoder inside a file: where it is, and whether its names are OpenCLIP's."""

    prefix: str
    config: CLIPTextConfig
    open_clip: bool


@dataclass(frozen=True)
class Family:
    """What all checkpoints of a family share."""

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
# Width of the text that the U-Net attends to -> family. SD 2 holds 24 layers of which the last is
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
        guidance=5.0,
        vae=AutoencoderConfig(scaling_factor=0.13025),
    ),
}


def read(path: Path, dtype: torch.dtype = torch.float32) -> Parts:
    """Open a checkpoint, its weights in `dtype`.

    Raises
    ------
    ModelError
        If the file is cut short, is of no family that is known here, or lacks a weight.
    """
    family, notes = identify(path)
    weights = {_plain(k): v for k, v in read_weights(path).items()}
    name = str(path)
    for prefix, what in ((VAE, "autoencoder"), (family.texts[0].prefix, "text encoder")):
        if not any(k.startswith(prefix) for k in weights):
            raise ModelError(
                f"{path} has no {what}: it holds a U-Net of {family.name}, not a whole checkpoint"
            )
    if odd := sorted(ODD & weights.keys()):
        raise ModelError(
            f"{path} was trained in another frame of noise ({odd[0]}), which is not supported"
        )
    predicted = prediction_type(family, notes, weights)
    unet = filled(
        UNet,
        family.unet,
        _take(weights, UNET, _names(UNet, family.unet, unet_name), name),
        name,
        dtype,
    )
    if unknown := sorted(k for k in weights if k.startswith(UNET)):
        raise ModelError(
            f"{path} has weight {unknown[0]} ({len(unknown)} such), which no U-Net of "
            f"{family.name} has: it is of another kind"
        )
    vae = family.vae
    space = filled(
        AutoencoderKL,
        vae,
        _take(weights, VAE, _names(AutoencoderKL, vae, vae_name), name),
        name,
        decoded_in(dtype),
    )
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
    return Parts(
        path, unet, space, texts, scheduler, Defaults(guidance_scale=family.guidance), zero_empty=xl
    )


OTHERS = {  # how a name of a weight tells what a file is that is no checkpoint; the first that fits
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
    """A weight's name without what a training program wrapped around it, and its autoencoder's
    attention as the original code has it.
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
    """What a file is, by the names of its weights, if it is of a known kind."""
    return next(
        (what for what, pattern in OTHERS.items() if any(re.search(pattern, n) for n in names)),
        None,
    )


def identify(path: Path) -> tuple[Family, dict[str, str]]:
    """The family of a file with its U-Net's channels, and the notes in its header; no weight is
    read.
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
            f"{path} cannot be read as safetensors ({error}); it may be cut short"
        ) from None
    width, channels = shapes["width"][1], shapes["channels"][1]
    if width not in FAMILIES:
        raise ModelError(
            f"{path}: text of width {width} belongs to no family that is known here (Stable "
            "Diffusion 1, 2, XL)"
        )
    family = FAMILIES[width]
    return replace(family, unet=family.unet.model_copy(update={"in_channels": channels})), notes


def prediction_type(family: Family, notes: Mapping[str, str], weights: Mapping[str, Tensor]) -> str:
    """What the U-Net predicts: the header's word, else a mark among the weights, else the family's
    habit.

    Of SD 2, "768" predicts v, "base" and inpainting predict eps. Nothing says so but one bias near
    the end, whose values lie wider apart in those that predict v (ComfyUI tells them apart so).
    """
    told = notes.get("modelspec.prediction_type")
    if told:
        return "v_prediction" if told.lower().startswith("v") else "epsilon"
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


def _get(weights: dict[str, Tensor], name: str, source: str) -> Tensor:
    if name not in weights:
        raise ModelError(f"{source} lacks weight {name}")
    return weights[name]


def _take(
    weights: dict[str, Tensor], part: str, names: list[tuple[str, str]], source: str
) -> dict[str, Tensor]:
    """The weights of a part under our names, out of the file's: what is not wanted in two forms
    takes no memory twice.
    """
    found = {ours: _get(weights, part + theirs, source) for ours, theirs in names}
    for _, theirs in names:
        del weights[part + theirs]
    return found


def _names(
    kind: Callable[[C], nn.Module], config: C, translate: Callable[[str, C], str]
) -> list[tuple[str, str]]:
    with torch.device("meta"):
        ours = kind(config).state_dict()
    return [(k, translate(k, config)) for k in ours]


def _replace(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = re.sub(ours, theirs, name)
    return name


RESNET = {
    r"\.norm1\.": ".in_layers.0.",
    r"\.conv1\.": ".in_layers.2.",
    r"\.time_emb_proj\.": ".emb_layers.1.",
    r"\.norm2\.": ".out_layers.0.",
    r"\.conv2\.": ".out_layers.3.",
    r"\.conv_shortcut\.": ".skip_connection.",
}
UNET_ENDS = {
    r"^time_embedding\.linear_1": "time_embed.0",
    r"^time_embedding\.linear_2": "time_embed.2",
    r"^add_embedding\.linear_1": "label_emb.0.0",
    r"^add_embedding\.linear_2": "label_emb.0.2",
    r"^class_embedding": "label_emb",
    r"^conv_in": "input_blocks.0.0",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2",
    r"^mid_block\.resnets\.0": "middle_block.0",
    r"^mid_block\.attentions\.0": "middle_block.1",
    r"^mid_block\.resnets\.1": "middle_block.2",
}


def unet_name(name: str, config: UNetConfig) -> str:
    """The name of a U-Net weight in the original code, which numbers layers through all levels.

    Examples
    --------
    >>> unet_name("down_blocks.1.resnets.0.conv1.weight", UNetConfig())
    'input_blocks.4.0.in_layers.2.weight'
    """
    if ".resnets." in name:
        name = _replace(name, RESNET)
    layers = config.layers_per_block
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if found is None:
        return _replace(name, UNET_ENDS)
    side, level, part, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if side == "down":
        if part == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.{rest.replace('conv.', 'op.')}"
        return f"input_blocks.{1 + level * (layers + 1) + layer}.{int(part == 'attentions')}.{rest}"
    if part == "upsamplers":
        behind = 2 if config.up_block_types[level] == "CrossAttnUpBlock2D" else 1
        return f"output_blocks.{level * (layers + 1) + layers}.{behind}.{rest}"
    return f"output_blocks.{level * (layers + 1) + layer}.{int(part == 'attentions')}.{rest}"


VAE_NAMES = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"attn_1\.group_norm": "attn_1.norm",
    r"attn_1\.to_([qkv])": r"attn_1.\1",
    r"attn_1\.to_out\.0": "attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
}


def vae_name(name: str, config: AutoencoderConfig) -> str:
    """The name of an autoencoder's weight in the original code, which counts the decoder's levels
    from the finest.

    Examples
    --------
    >>> vae_name("decoder.up_blocks.0.resnets.1.conv1.weight", AutoencoderConfig())
    'decoder.up.3.block.1.conv1.weight'
    """
    last = len(config.block_out_channels) - 1
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    name = re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name
    )
    return _replace(name, VAE_NAMES)


OPEN_CLIP = {
    r"^text_model\.": "",
    r"^embeddings\.token_embedding\.weight": "token_embedding.weight",
    r"^embeddings\.position_embedding\.weight": "positional_embedding",
    "^final_layer_norm": "ln_final",
    r"^text_projection\.weight": "text_projection",
    r"^encoder\.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"self_attn\.out_proj": "attn.out_proj",
    r"self_attn\.[qkv]_proj\.": "attn.in_proj_",
}


def clip_weights(weights: dict[str, Tensor], part: Text, source: str) -> dict[str, Tensor]:
    """A text encoder's weights under our names; OpenCLIP keeps q, k and v in one and its projection
    transposed.
    """
    out = {}
    for name, theirs in _names(
        CLIPText, part.config, lambda k, _: _replace(k, OPEN_CLIP) if part.open_clip else k
    ):
        bare = part.prefix + theirs.removeprefix("text_model.")  # as newer programs write it
        value = weights[bare] if bare in weights else _get(weights, part.prefix + theirs, source)
        if theirs.endswith(("in_proj_weight", "in_proj_bias")):
            value = value.chunk(3)["qkv".index(name.split("self_attn.")[1][0])]
        out[name] = value.T if theirs == "text_projection" else value
    return out
