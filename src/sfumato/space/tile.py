"""Process a large picture window by window, with the same result as for the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.layers import ResnetBlock

# positions around the window of a layer: a 3x3 kernel needs one, and halving needs an even number
MARGIN = 2


@dataclass(frozen=True)
class Window:
    """A part of a picture that is processed separately.

    Attributes
    ----------
    rows, columns : slice
        Rows and columns of the picture that the window covers.
    around : (slice, slice)
        Rows and columns that a network needs as input for the window.
    """

    rows: slice
    columns: slice
    around: tuple[slice, slice]

    def scaled(self, ratio: float) -> tuple[slice, slice]:
        """Return the window's rows and columns in an output with `ratio` pixels per input pixel."""
        rows, columns = (
            slice(int(part.start * ratio), int(part.stop * ratio))
            for part in (self.rows, self.columns)
        )
        return rows, columns

    def cut(self, part: Tensor, ratio: float = 1) -> Tensor:
        """Cut the window out of a network's output (..., h, w) for the input `around`."""
        rows, columns = self.scaled(ratio)
        above, before = (int(outer.start * ratio) for outer in self.around)
        return part[
            ...,
            rows.start - above : rows.stop - above,
            columns.start - before : columns.stop - before,
        ]


def windows(size: tuple[int, int], *, tile: int, margin: int) -> Iterator[Window]:
    """Yield the windows of a picture, which can be processed one by one in bounded memory.

    The result equals the result for the whole picture if each output pixel depends only on input
    pixels within `margin`.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    tile, margin : int
        Side of a window, and width of the margin around it, in pixels. Both must be multiples of
        the network's total stride.

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
    """Apply a layer with kernels up to 3x3 to `x` (B, C, H, W).

    The layer runs window by window if its input or output is larger than `tile`, else at once. The
    output is `ratio` times as large as the input.
    """
    if tile is None or fits(x, tile, ratio):
        out: Tensor = f(x)
        return out
    return _assembled(lambda rows, columns: f(x[..., rows, columns]), x, tile, ratio)


def resnet(block: ResnetBlock, x: Tensor, tile: int | None) -> Tensor:
    """Apply a residual block without time embedding, layer by layer.

    Its norms use the statistics of the whole picture.

    With windows, the result overwrites `x` to save memory, if both have the same shape and no
    gradient needs `x`.
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
    """Apply norm, SiLU and convolution: the end of both encoder and decoder."""
    if tile is None or fits(x, tile):
        out: Tensor = conv(F.silu(norm(x)))
        return out
    return layer(_normed(norm, conv, x), x, tile)


def fits(x: Tensor, tile: int, ratio: float = 1) -> bool:
    """Return whether a layer's input (B, C, H, W) and output are no larger than one window."""
    return max(x.shape[-2:]) * max(1, ratio) <= tile


def _normed(norm: nn.GroupNorm, conv: nn.Conv2d, whole: Tensor) -> Callable[[Tensor], Tensor]:
    """Build ``conv(silu(norm(part)))`` for parts of a picture.

    The norm uses the statistics of the whole picture.
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
    """Assemble a layer's output for a picture of the size of `like` from windows."""
    height, width = like.shape[-2:]
    tile = int(tile / max(1, ratio))
    for window in windows((height, width), tile=tile, margin=MARGIN):
        part = window.cut(f(*window.around), ratio)
        if out is None:
            out = part.new_empty(*part.shape[:2], int(height * ratio), int(width * ratio))
        out[..., *window.scaled(ratio)] = part
    assert out is not None
    return out
