"""Work on a large picture in overlapping tiles, blended where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def tiled(f: Callable[[Tensor], Tensor], x: Tensor, *, tile: int | None, ratio: float) -> Tensor:
    """Apply a picture-to-picture network tile by tile.

    Neighbouring tiles overlap by half. Each output pixel is a weighted mean of the tiles that hold it; the weight
    is zero in a tile's outer eighth (where the network sees a false border) and then rises linearly to the middle,
    so there is no seam.

    Parameters
    ----------
    f : callable
        (B, C, t, t) -> (B, C', t ratio, t ratio).
    x : Tensor, (B, C, H, W)
    tile : int, optional
        Side of a tile in `x`; if None, or if `x` is no larger, `f` runs once.
    ratio : float
        Output pixels per input pixel.

    Returns
    -------
    Tensor, (B, C', H ratio, W ratio)
    """
    height, width = x.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return f(x)
    out = total = None
    for top, tall in _spans(height, tile):
        for left, wide in _spans(width, tile):
            part = f(x[..., top : top + tall, left : left + wide])
            y0, x0 = round(top * ratio), round(left * ratio)
            weight = _ramp(part.shape[-2], y0 == 0, top + tall == height)[:, None] * _ramp(part.shape[-1], x0 == 0, left + wide == width)
            weight = weight.to(part)
            if out is None or total is None:
                size = (round(height * ratio), round(width * ratio))
                out, total = part.new_zeros(*part.shape[:2], *size), part.new_zeros(size)
            rows, columns = slice(y0, y0 + part.shape[-2]), slice(x0, x0 + part.shape[-1])
            out[..., rows, columns] += part * weight
            total[rows, columns] += weight
    assert out is not None and total is not None
    return out / total


def windowed(f: Callable[[slice, slice], Tensor], size: tuple[int, int], *, tile: int, margin: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Apply a local network window by window, in bounded memory.

    Equal to one window of the whole size where an output depends on input within `margin` only.

    Parameters
    ----------
    f : callable
        (rows, columns) -> (B, C, tall, wide): the network's result for that window.
    size : (int, int)
        Height and width of the picture.
    tile, margin : int
        Pixels of a window that are kept, and around it. Both are multiples of what the network divides sides by.

    Yields
    ------
    rows, columns : slice
    part : Tensor, (B, C, rows, columns)
        What belongs there.
    """
    height, width = size
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(height, top + tile), min(width, left + tile)
            y, x = max(0, top - margin), max(0, left - margin)
            part = f(slice(y, min(height, bottom + margin)), slice(x, min(width, right + margin)))
            yield slice(top, bottom), slice(left, right), part[..., top - y : bottom - y, left - x : right - x]


def _spans(size: int, tile: int) -> Iterator[tuple[int, int]]:
    """Starts and lengths of tiles that overlap by half; the last one ends at the border."""
    if size <= tile:
        yield 0, size
        return
    step = tile // 2
    for start in range(0, size - tile, step):
        yield start, tile
    yield size - tile, tile


def _ramp(size: int, first: bool, last: bool) -> Tensor:
    """Weights along one side: 1 at a picture's own border, else 0 in the outer eighth and rising behind it."""
    distance = torch.arange(size, dtype=torch.float32) + 0.5
    margin, rise = size / 8, size * 3 / 8
    left = torch.ones(size) if first else ((distance - margin) / rise).clamp(0, 1)
    right = torch.ones(size) if last else ((size - distance - margin) / rise).clamp(0, 1)
    return torch.minimum(left, right).clamp_min(1e-6)
