"""The autoencoder of latent diffusion.

Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.

Parameter names and config keys are the same as in diffusers' ``AutoencoderKL``. The encoder outputs
a Gaussian for each latent value. A small KL penalty keeps it near the standard normal; ``encode``
returns its mean.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.layers import Downsample, PictureAttention, ResnetBlock, Upsample
from sfumato.space.tile import head, layer, resnet

EPS = 1e-6  # of every group norm in this network, as in the reference implementation


class AutoencoderConfig(Config):
    """Config in ``vae/config.json``.

    Keys of diffusers for which one value is supported have a ``Literal`` type with this value, so
    any other value is an error.
    """

    in_channels: int = Field(3, ge=1)
    out_channels: int = Field(3, ge=1)
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = Field((128, 256, 512, 512), min_length=1)
    layers_per_block: int = Field(2, ge=0, le=100)
    latent_channels: int = Field(4, ge=1)
    norm_num_groups: int = Field(32, ge=1)
    sample_size: int = 512
    # 1 / standard deviation of the latents, in the checkpoints released by Rombach et al. 2022
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    force_upcast: bool = True  # not used: for float16 only; the VAE runs in float32 or bfloat16

    act_fn: Literal["silu"] = "silu"
    shift_factor: None = None
    latents_mean: None = None
    latents_std: None = None
    mid_block_add_attention: Literal[True] = True

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class _Level(nn.Module):
    def __init__(self, width_in: int, width: int, layers: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(width_in if i == 0 else width, width, None, groups=groups, eps=EPS)
            for i in range(layers)
        )

    def forward(self, x: Tensor, tile: int | None = None) -> Tensor:
        for block in self.resnets:
            assert isinstance(block, ResnetBlock)
            x = resnet(block, x, tile)
        return x


class _DownLevel(_Level):
    def __init__(self, width_in: int, width: int, layers: int, groups: int, *, last: bool) -> None:
        super().__init__(width_in, width, layers, groups)
        self.downsamplers = None if last else nn.ModuleList([Downsample(width, asymmetric=True)])

    def forward(self, x: Tensor, tile: int | None = None) -> Tensor:
        x = super().forward(x, tile)
        return x if self.downsamplers is None else layer(self.downsamplers[0], x, tile, ratio=0.5)


class _UpLevel(_Level):
    def __init__(self, width_in: int, width: int, layers: int, groups: int, *, last: bool) -> None:
        super().__init__(width_in, width, layers, groups)
        self.upsamplers = None if last else nn.ModuleList([Upsample(width)])

    def forward(self, x: Tensor, tile: int | None = None) -> Tensor:
        x = super().forward(x, tile)
        return x if self.upsamplers is None else layer(self.upsamplers[0], x, tile, ratio=2)


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(width, width, None, groups=groups, eps=EPS) for _ in range(2)
        )
        self.attentions = nn.ModuleList([PictureAttention(width, 1, groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x))
        out: Tensor = self.resnets[1](x)
        return out


class Encoder(nn.Module):
    """Encoder of pictures (B, C, H, W) to mean and log variance of latents (B, 2 c, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _DownLevel(
                widths[max(0, i - 1)], w, config.layers_per_block, groups, last=i == len(widths) - 1
            )
            for i, w in enumerate(widths)
        )
        self.mid_block = _Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, tile: int | None = None) -> Tensor:
        """Run the encoder.

        Large feature maps are computed in windows with sides of `tile` positions, except in the
        middle block.
        """
        x = layer(self.conv_in, x, tile)
        for level in self.down_blocks:
            x = level(x, tile)
        return head(self.conv_norm_out, self.conv_out, self.mid_block(x), tile)


class Decoder(nn.Module):
    """Decoder of latents (B, c, h, w) to pictures (B, C, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            _UpLevel(
                widths[max(0, i - 1)],
                w,
                config.layers_per_block + 1,
                groups,
                last=i == len(widths) - 1,
            )
            for i, w in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Run the decoder.

        Large feature maps are computed in windows with sides of `tile` positions, except in the
        first layer and in the middle block of the decoder.
        """
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x, tile)
        return head(self.conv_norm_out, self.conv_out, x, tile)


class AutoencoderKL(nn.Module):
    """The space of latent diffusion.

    ``encode`` returns scaled latents of about unit variance; ``decode`` returns pictures.

    Parameters
    ----------
    config : AutoencoderConfig
    tile : int, optional
        Side of a window in positions of the feature map, a multiple of 4. Feature maps larger than
        a window are computed window by window, except in the middle block and the decoder's first
        layer. This takes less memory and gives the same result. None disables windows.

    Examples
    --------
    >>> import torch
    >>> space = AutoencoderKL(AutoencoderConfig(
    ...     block_out_channels=(32, 32), layers_per_block=1,
    ...     down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ... ))
    >>> z = space.encode(torch.zeros(1, 3, 16, 16)); z.shape
    torch.Size([1, 4, 8, 8])
    >>> space.decode(z).shape
    torch.Size([1, 3, 16, 16])
    """

    # noise level in latents that corresponds to noise of standard deviation 1 on a picture: the
    # values of pictures have a standard deviation of about 1/2, latents of about 1
    deviation = 2.0

    def __init__(self, config: AutoencoderConfig, tile: int | None = 256) -> None:
        super().__init__()
        self.config, self.tile = config, tile
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if config.use_post_quant_conv else None

    def moments(self, x: Tensor, tile: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean and log variance of the unscaled latents, (B, c, h, w) each.

        The log variance is clamped to [-30, 20].
        """
        h = self.encoder(x, tile)
        h = h if self.quant_conv is None else self.quant_conv(h)
        mean, log_variance = h.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def reconstruct(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Decode unscaled latents (B, c, h, w) to pictures (B, C, H, W)."""
        out: Tensor = self.decoder(
            z if self.post_quant_conv is None else self.post_quant_conv(z), tile
        )
        return out

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures (B, C, H, W) in [-1, 1] as scaled latents (B, c, H / f, W / f).

        f is ``config.factor``.
        """
        return (
            self.moments(x.to(self.encoder.conv_in.weight), self.tile)[0]
            * self.config.scaling_factor
        )

    def decode(self, z: Tensor) -> Tensor:
        """Decode scaled latents (B, c, h, w) to pictures (B, C, f h, f w), about in [-1, 1]."""
        return self.reconstruct(
            z.to(self.encoder.conv_in.weight) / self.config.scaling_factor, self.tile
        )
