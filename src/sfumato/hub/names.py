"""Translation of our weight names to those of single-file checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.denoiser.unet import UNetConfig
from sfumato.errors import ModelError
from sfumato.space.kl import AutoencoderConfig

C = TypeVar("C")


@dataclass(frozen=True)
class Text:
    """A text encoder in a checkpoint.

    The names of the encoder's weights begin with `prefix`. `open_clip` says whether they are
    OpenCLIP's names.
    """

    prefix: str
    config: CLIPTextConfig
    open_clip: bool


def replaced(name: str, table: dict[str, str]) -> str:
    """Replace all matches of a table's patterns in a name."""
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
    """Return the name of a U-Net weight in a single-file checkpoint.

    These names come from the code of latent diffusion, which numbers the layers of all levels
    consecutively.

    Examples
    --------
    >>> unet_name("down_blocks.1.resnets.0.conv1.weight", UNetConfig())
    'input_blocks.4.0.in_layers.2.weight'
    """
    if ".resnets." in name:
        name = replaced(name, RESNET)
    layers = config.layers_per_block
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if found is None:
        return replaced(name, UNET_ENDS)
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
    """Return the name of an autoencoder's weight in the original code.

    The original code counts the decoder's levels from the finest.

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
    return replaced(name, VAE_NAMES)


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
    """Return a text encoder's weights under our names.

    OpenCLIP stores q, k and v in one weight, and the projection transposed.
    """
    out = {}
    for name, theirs in names_of(
        CLIPText, part.config, lambda k, _: replaced(k, OPEN_CLIP) if part.open_clip else k
    ):
        bare = part.prefix + theirs.removeprefix("text_model.")  # newer files omit text_model.
        value = (
            weights[bare] if bare in weights else weight_of(weights, part.prefix + theirs, source)
        )
        if theirs.endswith(("in_proj_weight", "in_proj_bias")):
            value = value.chunk(3)["qkv".index(name.split("self_attn.")[1][0])]
        out[name] = value.T if theirs == "text_projection" else value
    return out


def weight_of(weights: dict[str, Tensor], name: str, source: str) -> Tensor:
    """Return a weight of a file by its name."""
    if name not in weights:
        raise ModelError(f"{source} lacks weight {name}")
    return weights[name]


def names_of(
    kind: Callable[[C], nn.Module], config: C, translate: Callable[[str, C], str]
) -> list[tuple[str, str]]:
    """Return a pair of our name and the file's name for each weight of a network."""
    with torch.device("meta"):
        ours = kind(config).state_dict()
    return [(k, translate(k, config)) for k in ours]
