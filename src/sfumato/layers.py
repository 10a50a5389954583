"""Blocks shared by the networks of `space`, `denoiser` and `condition`.

The parameters have the same names as in diffusers, so a state dict from diffusers loads without
renaming.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.types import Watch


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: queries (..., N, D), keys (..., M, D) and values (..., M, E) to
    (..., N, E).

    On a CPU in bfloat16, explicit matrix products are used, since torch's fused kernel is much
    slower there. In this case, the queries are split into chunks, so that the scores of a chunk
    have at most 2^26 entries.

    Examples
    --------
    >>> q = torch.zeros(1, 2, 5, 8)
    >>> attend(q, q, torch.ones(1, 2, 5, 8)).shape
    torch.Size([1, 2, 5, 8])
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    q = q * q.shape[-1] ** -0.5
    kt = k.transpose(-1, -2)
    rows = max(1, 2**26 // max(1, math.prod(kt.shape[:-2]) * kt.shape[-1]))
    parts = [torch.softmax(part @ kt, dim=-1) @ v for part in q.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


class Attention(nn.Module):
    """Multi-head attention: self-attention, or cross-attention if a context is given.

    Parameters
    ----------
    width : int
        Channels of the query.
    heads : int
        Number of heads (which SD configs call ``attention_head_dim``).
    context_width : int, optional
        Channels of the context; `width` if absent.
    bias : bool
        Whether the projections to q, k and v have biases.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_width or width, width, bias=bias)
        self.to_v = nn.Linear(context_width or width, width, bias=bias)
        # diffusers has a dropout at index 1
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(
        self, x: Tensor, context: Tensor | None = None, watch: Watch | None = None
    ) -> Tensor:
        """(B, N, width), (B, M, context_width) -> (B, N, width); `watch` is called with the queries
        and the keys.
        """
        context = x if context is None else context
        queries, keys = self.to_q(x), self.to_k(context)
        if watch is not None:
            watch(queries, keys)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (queries, keys, self.to_v(context))
        )
        out: Tensor = self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError if `width` channels cannot be divided among the heads of attention."""
    if heads < 1 or width % heads:
        raise ValueError(f"{width} channels cannot be divided among {heads} heads")


class PictureAttention(Attention):
    """Self-attention over the positions of a picture, with a norm before it and a residual
    connection, as used in the VAE and in networks without text.

    Parameters
    ----------
    width, heads : int
        As in :class:`Attention`; the projections have biases.
    groups : int
        Number of groups of the norm.
    eps : float
        Epsilon of the norm.
    """

    def __init__(self, width: int, heads: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__(width, heads, bias=True)
        self.group_norm = nn.GroupNorm(groups, width, eps=eps)

    def forward(
        self, x: Tensor, context: Tensor | None = None, watch: Watch | None = None
    ) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + _picture(super().forward(_rows(self.group_norm(x))), x)


class GEGLU(nn.Module):
    """Gated GELU (Shazeer 2020, arXiv:2002.05202, section 2)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, inner)."""
        # Two matrix products, not one whose result is split: contiguous halves are faster in
        # elementwise kernels.
        to_value, to_gate = self.proj.weight.chunk(2)
        value_bias, gate_bias = self.proj.bias.chunk(2)
        return F.linear(x, to_value, value_bias) * F.gelu(F.linear(x, to_gate, gate_bias))


class FeedForward(nn.Module):
    """The two-layer network of a transformer block, with a gated GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, width * 4), nn.Identity(), nn.Linear(width * 4, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward.

    Each has a norm before it and a residual connection. With `only_cross`, cross-attention to the
    text replaces self-attention.
    """

    def __init__(self, width: int, heads: int, context_width: int, *, only_cross: bool) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, context_width if only_cross else None)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, watch: Watch | None = None) -> Tensor:
        """(B, N, width), (B, T, context_width) -> (B, N, width)."""
        x = x + self.attn1(self.norm1(x), context if self.only_cross else None)
        x = x + self.attn2(self.norm2(x), context, watch)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a picture (Rombach et al. 2022, arXiv:2112.10752,
    appendix E.2.1).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int,
        *,
        depth: int,
        groups: int,
        linear: bool,
        only_cross: bool,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, heads, context_width, only_cross=only_cross)
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, watch: Watch | None = None) -> Tensor:
        """(B, C, h, w), (B, T, context_width) -> (B, C, h, w)."""
        h = _project(self.proj_in, _rows(self.norm(x)))
        for block in self.transformer_blocks:
            h = block(h, context, watch)
        return x + _picture(_project(self.proj_out, h), x)


def _project(layer: nn.Module, rows: Tensor) -> Tensor:
    """Apply a linear layer, or a 1x1 convolution as a linear layer, which is faster on a CPU."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h w, C)


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    out: Tensor = rows.transpose(1, 2).unflatten(2, like.shape[2:])
    return out


class ResnetBlock(nn.Module):
    """Residual block: norm, SiLU and convolution, twice, with the time embedding added in between
    (Ho et al. 2020, appendix B).
    """

    def __init__(
        self, width_in: int, width_out: int, time_width: int | None, *, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps=eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, width_out) if time_width else None
        self.norm2 = nn.GroupNorm(groups, width_out, eps=eps)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, C_in, h, w), (B, time_width) with SiLU already applied -> (B, C_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class Downsample(nn.Module):
    """Halve the size by a strided convolution; `asymmetric` pads right and bottom only, as in the
    VAE.
    """

    def __init__(self, width: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return out


class Upsample(nn.Module):
    """Upsample by nearest neighbor to twice the size or to a given size, then apply a
    convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        """(B, C, h, w) -> (B, C, 2 h, 2 w), or (B, C, *size).

        `size` restores an odd side that was halved by a downsampling layer.
        """
        x = F.interpolate(x, scale_factor=2.0) if size is None else F.interpolate(x, size=size)
        out: Tensor = self.conv(x)
        return out


def sinusoids(t: Tensor, width: int, *, flip: bool = True, shift: float = 0.0) -> Tensor:
    """Sinusoidal embedding of timesteps (Vaswani et al. 2017, section 3.5).

    Sines and cosines form two halves of the embedding, as in Ho et al. 2020. The frequencies are
    ``10000 ** (-i / (width / 2 - shift))``; `shift` is ``freq_shift`` in diffusers.

    Parameters
    ----------
    t : Tensor, (B,)
        Timesteps, usually 0 to 999.
    width : int
        Number of values per timestep, an even number.
    flip : bool
        Whether cosines come first, as in Stable Diffusion.

    Returns
    -------
    Tensor, (B, width), in [-1, 1].
    """
    half = width // 2
    rates = torch.exp(
        -math.log(10000.0)
        * torch.arange(half, dtype=torch.float32, device=t.device)
        / (half - shift)
    )
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()] if flip else [angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers with a SiLU between them."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in) -> (B, width)."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out
