"""Work on a large picture window by window, with the result of working on the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.layers import ResnetBlock

# positions around a window of one layer: a kernel of 3 sees one, and halving needs an even number
MARGIN = 2


@dataclass(frozen=True)
class Window:
    """A part of a picture that is worked on alone.

    Attributes
    ----------
    rows, columns : slice
        What of the picture it stands for.
    around : (slice, slice)
        The rows and columns that a network has to see for that.
    """

    rows: slice
    columns: slice
    around: tuple[slice, slice]

    def scaled(self, ratio: float) -> tuple[slice, slice]:
        """The rows and columns in a result of `ratio` output pixels per input pixel."""
        rows, columns = (
            slice(int(part.start * ratio), int(part.stop * ratio))
            for part in (self.rows, self.columns)
        )
        return rows, columns

    def cut(self, part: Tensor, ratio: float = 1) -> Tensor:
        """What of a network's result (..., h, w) for the pixels around belongs to the window."""
        rows, columns = self.scaled(ratio)
        above, before = (int(outer.start * ratio) for outer in self.around)
        return part[
            ...,
            rows.start - above : rows.stop - above,
            columns.start - before : columns.stop - before,
        ]


def windows(size: tuple[int, int], *, tile: int, margin: int) -> Iterator[Window]:
    """The windows of a picture, to be worked on one by one, in bounded memory.

    The result is that of the whole picture where an output depends on input within `margin` only.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    tile, margin : int
        Pixels of a window that are kept, and around it. Both are multiples of what the network
        divides sides by.

    Examples
    --------
    >>> x = torch.arange(6.0).view(1, 1, 1, 6)
    >>> torch.cat([w.cut(2 * x[..., *w.around]) for w in windows((1, 6), tile=4, margin=2)], -1)
    tensor([[[[ 0.,  2.,  4.,  6.,  8., 10.]]]])
    """
    height, width = size
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(height, top + tile), min(width, left + tile)
            around = (
                slice(max(0, top - margin), min(height, bottom + margin)),
                slice(max(0, left - margin), min(width, right + margin)),
            )
            yield Window(slice(top, bottom), slice(left, right), around)


def layer(
    f: nn.Module | Callable[[Tensor], Tensor], x: Tensor, tile: int | None, ratio: float = 1
) -> Tensor:
    """One layer of kernels up to 3x3, on all of (B, C, H, W) at once or, if that is larger than
    `tile`, window by window.
    """
    if tile is None or fits(x, tile, ratio):
        out: Tensor = f(x)
        return out
    return _assembled(lambda rows, columns: f(x[..., rows, columns]), x, tile, ratio)


def resnet(block: ResnetBlock, x: Tensor, tile: int | None) -> Tensor:
    """A residual block without a time, layer by layer; its norms see the whole picture, as they
    would without windows.

    In windows, the result takes the place of `x` where it has the same shape, unless a gradient
    needs it: it is large.
    """
    if tile is None or fits(x, tile):
        out: Tensor = block(x)
        return out
    h = layer(_normed(block.norm1, block.conv1, x), x, tile)
    second = _normed(block.norm2, block.conv2, h)

    def rest(rows: slice, columns: slice) -> Tensor:
        here = x[..., rows, columns]
        return second(h[..., rows, columns]) + (
            here if block.conv_shortcut is None else block.conv_shortcut(here)
        )

    return _assembled(
        rest, x, tile, out=x if block.conv_shortcut is None and not x.requires_grad else None
    )


def head(norm: nn.GroupNorm, conv: nn.Conv2d, x: Tensor, tile: int | None) -> Tensor:
    """Norm, SiLU and convolution: the end of both halves of the autoencoder."""
    if tile is None or fits(x, tile):
        out: Tensor = conv(F.silu(norm(x)))
        return out
    return layer(_normed(norm, conv, x), x, tile)


def fits(x: Tensor, tile: int, ratio: float = 1) -> bool:
    """Whether a layer takes (B, C, H, W) in one piece: its result, too, is no larger than a
    window.
    """
    return max(x.shape[-2:]) * max(1, ratio) <= tile


def _normed(norm: nn.GroupNorm, conv: nn.Conv2d, whole: Tensor) -> Callable[[Tensor], Tensor]:
    """``conv(silu(norm(part)))`` for parts of a picture, with the norm's statistics those of the
    whole.
    """
    variance, mean = torch.var_mean(
        whole.reshape(len(whole), norm.num_groups, -1).float(), dim=-1, correction=0
    )
    each = whole.shape[1] // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(each, 1)
    shift = norm.bias - mean.repeat_interleave(each, 1) * scale

    def apply(part: Tensor) -> Tensor:
        out: Tensor = conv(
            F.silu((part.float() * scale[..., None, None] + shift[..., None, None]).to(part.dtype))
        )
        return out

    return apply


def _assembled(
    f: Callable[[slice, slice], Tensor],
    like: Tensor,
    tile: int,
    ratio: float = 1,
    out: Tensor | None = None,
) -> Tensor:
    """A layer's result for a picture of the size of `like`, put together from windows."""
    height, width = like.shape[-2:]
    tile = int(tile / max(1, ratio))
    for window in windows((height, width), tile=tile, margin=MARGIN):
        part = window.cut(f(*window.around), ratio)
        if out is None:
            out = part.new_empty(*part.shape[:2], int(height * ratio), int(width * ratio))
        out[..., *window.scaled(ratio)] = part
    assert out is not None
    return out
