"""The U-Net of Stable Diffusion 1, 2 and XL, of its inpainting models and x4 upscaler, and of
diffusion models without text.

Parameter names and config keys are the same as in diffusers' ``UNet2DConditionModel``, so its
checkpoints load unchanged. Checkpoints of ``UNet2DModel`` load through :class:`PlainUNetConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.layers import (
    Downsample,
    PictureAttention,
    ResnetBlock,
    SpatialTransformer,
    TimestepEmbedding,
    Upsample,
    sinusoids,
)
from sfumato.types import Condition

AVERAGING = frozenset(
    "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split()
)
DownType = Literal["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"]
UpType = Literal["CrossAttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]


class UNetConfig(Config):
    """Config in ``unet/config.json``.

    If only one value of a diffusers key is supported, the key's type is a ``Literal`` of this
    value, or None.
    """

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[DownType, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[UpType, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = Field(2, ge=1, le=100)
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    # the number of heads: a misnomer kept for old checkpoints; in attention without a text
    # (AttnDownBlock2D, AttnUpBlock2D), the channels per head
    attention_head_dim: int | tuple[int, ...] = 8
    only_cross_attention: bool | tuple[bool, ...] = False
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    num_class_embeds: int | None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    # ignored: a remedy for float16 overflow, but our attention accumulates in float32
    upcast_attention: bool | None = False

    center_input_sample: Literal[False] = False
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] = "UNetMidBlock2DCrossAttn"
    downsample_padding: Literal[0, 1] = 1  # 0: pad only right and bottom, by one
    mid_block_scale_factor: Literal[1] = 1
    dropout: Literal[0] = 0
    act_fn: Literal["silu"] = "silu"
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    class_embed_type: None = None
    resnet_time_scale_shift: Literal["default"] = "default"
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: Literal[1] = 1
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: None = None
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: int = 64

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Drop the keys about weight averaging, which some released configs (SD XL inpainting)
        have.
        """
        return (
            {k: v for k, v in data.items() if k not in AVERAGING}
            if isinstance(data, Mapping)
            else data
        )

    @property
    def unit(self) -> int:
        """Sides of latents are multiples of this number: each level but the last halves the
        sides.
        """
        return int(2 ** (len(self.block_out_channels) - 1))

    def heads(self, level: int) -> int:
        """Number of attention heads at a level (0 = finest)."""
        return (
            self.attention_head_dim
            if isinstance(self.attention_head_dim, int)
            else self.attention_head_dim[level]
        )

    def depth(self, level: int) -> int:
        """Number of transformer blocks per attention layer at a level."""
        many = self.transformer_layers_per_block
        return many if isinstance(many, int) else many[level]

    def only_cross(self, level: int) -> bool:
        """Whether the first attention layer of each transformer block is cross-attention.

        If so, this layer attends to the text; otherwise, it is self-attention. The result holds for
        all blocks at a level.
        """
        many = self.only_cross_attention
        return many if isinstance(many, bool) else many[level]


class PlainUNetConfig(Config):
    """``unet/config.json`` of diffusers' ``UNet2DModel``: the U-Net of Ho et al. 2020
    (arXiv:2006.11239), which has no text input.
    """

    sample_size: int | None = None
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[Literal["AttnDownBlock2D", "DownBlock2D"], ...] = ("DownBlock2D",) + (
        "AttnDownBlock2D",
    ) * 3
    up_block_types: tuple[Literal["AttnUpBlock2D", "UpBlock2D"], ...] = ("AttnUpBlock2D",) * 3 + (
        "UpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    attention_head_dim: int | None = 8  # here the channels per head; None: one head
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    downsample_padding: Literal[0, 1] = 1
    num_train_timesteps: int | None = None  # of a learned time embedding, which is not supported

    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: None = None
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    mid_block_scale_factor: Literal[1] = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: float = 0.0  # in training only
    act_fn: Literal["silu"] = "silu"
    attn_norm_num_groups: None = None
    resnet_time_scale_shift: Literal["default"] = "default"
    add_attention: Literal[True] = True
    class_embed_type: None = None
    num_class_embeds: None = None

    def network(self) -> UNetConfig:
        """Return the config of the same network as a :class:`UNetConfig`."""
        shared = self.model_dump(
            include=UNetConfig.model_fields.keys() & type(self).model_fields.keys(),
            exclude={"dropout"},
        )
        per_head = self.attention_head_dim or self.block_out_channels
        return UNetConfig.model_validate({**shared, "attention_head_dim": per_head})


class _Block(nn.Module):
    """Residual blocks, each followed by attention if the level has attention.

    The subclasses add skip connections and resampling.
    """

    def __init__(
        self,
        config: UNetConfig,
        widths_in: list[int],
        level: int,
        *,
        attention: int,
        text: bool = True,
    ) -> None:
        super().__init__()
        width = config.block_out_channels[level]
        time_width = config.block_out_channels[0] * 4
        self.resnets = nn.ModuleList(
            ResnetBlock(w, width, time_width, groups=config.norm_num_groups, eps=config.norm_eps)
            for w in widths_in
        )
        if attention and not text:
            # here diffusers takes the number of heads for the channels per head
            heads, groups = max(1, width // config.heads(level)), config.norm_num_groups
            self.attentions = nn.ModuleList(
                PictureAttention(width, heads, groups, config.norm_eps) for _ in range(attention)
            )
        elif attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    width,
                    config.heads(level),
                    config.cross_attention_dim,
                    depth=config.depth(level),
                    groups=config.norm_num_groups,
                    linear=config.use_linear_projection,
                    only_cross=self.takes_only_cross and config.only_cross(level),
                )
                for _ in range(attention)
            )

    takes_only_cross = True

    def attend(self, index: int, x: Tensor, condition: Condition) -> Tensor:
        """Apply the attention after a residual block; `x` is unchanged if the level has none."""
        if not hasattr(self, "attentions"):
            return x
        out: Tensor = self.attentions[index](x, condition.tokens, condition.watch)
        return out


class _Down(_Block):
    def __init__(self, config: UNetConfig, width_in: int, level: int) -> None:
        width, layers = config.block_out_channels[level], config.layers_per_block
        kind = config.down_block_types[level]
        attention = 0 if kind == "DownBlock2D" else layers
        super().__init__(
            config,
            [width_in] + [width] * (layers - 1),
            level,
            attention=attention,
            text=kind == "CrossAttnDownBlock2D",
        )
        last = level == len(config.block_out_channels) - 1
        self.downsamplers = (
            None
            if last
            else nn.ModuleList([Downsample(width, asymmetric=config.downsample_padding == 0)])
        )

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> list[Tensor]:
        """Return the state after each layer; the last state is the input of the next level."""
        states = []
        for i, resnet in enumerate(self.resnets):
            x = self.attend(i, resnet(x, time), condition)
            states.append(x)
        if self.downsamplers is not None:
            states.append(self.downsamplers[0](x))
        return states


class _Mid(_Block):
    takes_only_cross = False

    def __init__(self, config: UNetConfig) -> None:
        level = len(config.block_out_channels) - 1
        super().__init__(
            config,
            [config.block_out_channels[-1]] * 2,
            level,
            attention=1,
            text=config.mid_block_type == "UNetMidBlock2DCrossAttn",
        )

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Apply a residual block, attention and another residual block."""
        x = self.attend(0, self.resnets[0](x, time), condition)
        out: Tensor = self.resnets[1](x, time)
        return out


class _Up(_Block):
    def __init__(
        self, config: UNetConfig, width_in: int, widths_skip: list[int], level: int
    ) -> None:
        width, layers = config.block_out_channels[level], config.layers_per_block + 1
        kind = config.up_block_types[len(config.block_out_channels) - 1 - level]
        widths = [(width_in if i == 0 else width) + widths_skip[i] for i in range(layers)]
        super().__init__(
            config,
            widths,
            level,
            attention=0 if kind == "UpBlock2D" else layers,
            text=kind == "CrossAttnUpBlock2D",
        )
        self.upsamplers = None if level == 0 else nn.ModuleList([Upsample(width)])

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, condition: Condition) -> Tensor:
        """Take one skip from the end of `skips` per layer; upsample to the next skip's size."""
        for i, resnet in enumerate(self.resnets):
            x = self.attend(i, resnet(torch.cat([x, skips.pop()], dim=1), time), condition)
        if self.upsamplers is None:
            return x
        out: Tensor = self.upsamplers[0](x, skips[-1].shape[2:])
        return out


class UNet(nn.Module):
    """A U-Net from noisy latents, a noise level and a condition to the raw prediction.

    Parameters
    ----------
    config : UNetConfig

    Examples
    --------
    >>> import torch
    >>> net = UNet(UNetConfig(
    ...     block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16,
    ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    ...     up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ... ))
    >>> net(torch.zeros(2, 4, 8, 8), torch.zeros(2), Condition(tokens=torch.zeros(2, 7, 16))).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        time_width = widths[0] * 4
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_width)
        if config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, time_width)
        if config.addition_embed_type is not None:
            self.add_embedding = TimestepEmbedding(
                config.projection_class_embeddings_input_dim or 0, time_width
            )
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList(_Down(config, widths[max(0, i - 1)], i) for i in levels)
        self.mid_block = _Mid(config)
        skips = [widths[0]]
        for i in levels:
            skips += [widths[i]] * (config.layers_per_block + (i < len(widths) - 1))
        ups, width_in = [], widths[-1]
        for i in reversed(levels):
            ups.append(
                _Up(config, width_in, [skips.pop() for _ in range(config.layers_per_block + 1)], i)
            )
            width_in = widths[i]
        self.up_blocks = nn.ModuleList(ups)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def embed(self, c_noise: Tensor, condition: Condition) -> Tensor:
        """Return the sum of the embeddings of the noise level and of the condition's vector.

        It is (B, 4 w0), where w0 is the number of channels of the first level. SiLU is already
        applied, once for all blocks.
        """
        config = self.config
        waves = sinusoids(
            c_noise,
            config.block_out_channels[0],
            flip=config.flip_sin_to_cos,
            shift=config.freq_shift,
        )
        time: Tensor = self.time_embedding(waves.to(self.conv_in.weight.dtype))
        if config.num_class_embeds is not None and condition.vector is not None:
            time = time + self.class_embedding(condition.vector[:, 0].long())
        if config.addition_embed_type is not None and condition.vector is not None:
            time = time + self.add_embedding(condition.vector)
        return F.silu(time)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """Noisy latents (B, C, h, w) and timesteps (B,) -> prediction (B, out_channels, h, w).

        ``condition.planes`` are concatenated to `x`.
        """
        time = self.embed(c_noise, condition)
        x = self.conv_in(x if condition.planes is None else torch.cat([x, condition.planes], dim=1))
        skips = [x]
        for down in self.down_blocks:
            skips += down(skips[-1], time, condition)
        x = self.mid_block(skips[-1], time, condition)
        for up in self.up_blocks:
            x = up(x, skips, time, condition)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out
