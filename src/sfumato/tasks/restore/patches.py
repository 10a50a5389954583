"""Fill wide holes with texture from patches of the known part, coarse to fine.

A network predicts the mean of all possible fillings, which is blurred in a wide hole. Here every
small window over the hole is made to look like some window of the known part (Wexler et al. 2007).
Two steps are repeated, first on a small copy of the picture: each window searches for the nearest
known window (PatchMatch, Barnes et al. 2009), and each missing pixel becomes the weighted mean of
what the windows over it propose. Texture features (Newson et al. 2014) keep smooth windows out of
rough regions. Finally, the differences between neighboring pixels are taken from the matches, too,
and the filling is fitted to them and to the rim (Perez et al. 2003; Darabi et al. 2012). Without
this step, a faint edge would remain where the windows of one side of the hole meet those of the
other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from torch import Generator, Tensor

from sfumato.denoiser.restorer import interpolated
from sfumato.tasks.restore.patchmatch import RADIUS, Level, grown, search, votes

WIDE = 24  # width of a hole in pixels from which a network's filling looks blurred
CONTEXT = 1.25  # width of the region around a hole that is searched, relative to the hole's size
SMALLEST = 7.0  # width of the hole on the smallest copy, in pixels
ROUNDS = (10, 6, 4, 3, 2)  # on the smallest copy and the next ones; the last number for all others
STAY = 1e-3  # weight of the colors, relative to the differences of neighboring pixels
EXACT = 3e-4  # largest relative residual of the linear equations for the colors
TEXTURE = 2.0  # weight of features relative to colors
Box = tuple[int, int, int, int]
Read = Callable[[slice, slice], Tensor]


def wide_holes(
    hidden: NDArray[np.bool_], width: float = WIDE, margin: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return the holes of a mask (H, W) that are wider than `width` pixels somewhere.

    The pixels of a `margin` (H, W) do not add to the width. A hole is left out if no window near it
    is completely known: there is no texture to copy.

    Examples
    --------
    >>> hidden = np.zeros((64, 64), bool)
    >>> hidden[:, 3:6] = hidden[20:60, 20:60] = True
    >>> int(wide_holes(hidden).sum())
    1600
    """
    labels, count = ndimage.label(hidden, np.ones((3, 3)))
    if count == 0:
        return hidden
    depth = ndimage.distance_transform_edt(hidden if margin is None else hidden & ~margin)
    deepest = ndimage.maximum(depth, labels, np.arange(1, count + 1))
    chosen = np.concatenate([[False], 2 * np.atleast_1d(deepest) > width])
    out: NDArray[np.bool_] = chosen[labels]
    for box in list(_boxes(out)):
        if not _has_known_window(out[box]):
            out[box] = False
    return out


def _has_known_window(hidden: NDArray[np.bool_]) -> bool:
    """Whether some window of 7x7 pixels has no hidden pixel."""
    return bool(ndimage.binary_erosion(~hidden, np.ones((2 * RADIUS + 1, 2 * RADIUS + 1))).any())


@dataclass(frozen=True)
class Filled:
    """A part of a picture whose holes are filled.

    Attributes
    ----------
    rows, columns : slice
    values : Tensor, (C, h, w)
        Known pixels are unchanged.
    """

    rows: slice
    columns: slice
    values: Tensor


def complete(read: Read, hidden: NDArray[np.bool_], seed: int = 0) -> Iterator[float | Filled]:
    """Fill the hidden pixels with texture from the known ones, box by box.

    Parameters
    ----------
    read : callable
        Returns the picture at given rows and columns, (C, h, w) in [-1, 1].
    hidden : array, (H, W), bool
    seed : int
        The same seed gives the same result.

    Yields
    ------
    float or Filled
        The finished share of the work, and each finished box.

    Examples
    --------
    >>> stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 64, 64)
    >>> hidden = np.zeros((64, 64), bool)
    >>> hidden[16:48, 16:48] = True
    >>> *_, filled = complete(lambda rows, columns: stripes[:, rows, columns], hidden)
    >>> bool((filled.values - stripes[:, filled.rows, filled.columns]).abs().max() < 0.2)
    True
    """
    boxes = list(_boxes(hidden))
    for k, (rows, columns) in enumerate(boxes):
        hole = torch.from_numpy(hidden[rows, columns])
        random = torch.Generator().manual_seed((seed + 7919 * k) % 2**63)
        for event in _complete(read(rows, columns), hole, random):
            if isinstance(event, float):
                yield (k + event) / len(boxes)
            else:
                yield Filled(rows, columns, event)


def _boxes(hidden: NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    """Yield the boxes to process: each hole with the region around it that is searched.

    Boxes that overlap are joined.
    """
    boxes: list[Box] = []
    for found in ndimage.find_objects(ndimage.label(hidden, np.ones((3, 3)))[0]):
        reach = int(CONTEXT * max(side.stop - side.start for side in found)) + 8 * RADIUS
        top, left = (max(0, side.start - reach) for side in found)
        bottom = min(hidden.shape[0], found[0].stop + reach)
        right = min(hidden.shape[1], found[1].stop + reach)
        box = top, bottom, left, right
        while other := next((one for one in boxes if _overlap(one, box)), None):
            boxes.remove(other)
            low = map(min, zip(box, other, strict=True))
            high = map(max, zip(box, other, strict=True))
            (top, _, left, _), (_, bottom, _, right) = low, high
            box = top, bottom, left, right
        boxes.append(box)
    for top, bottom, left, right in boxes:
        yield slice(top, bottom), slice(left, right)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _complete(part: Tensor, hole: Tensor, random: Generator) -> Iterator[float | Tensor]:
    """Fill one box (C, h, w): yield the finished share of the work, and finally the box."""
    copies = _copies(part, hole)
    level, matches, errors = None, None, None
    for k, (values, small) in enumerate(copies):
        finer = Level.of(values, small)
        if not finer.valid.any() or len(finer.targets) == 0:
            continue  # no window of this copy is known; a larger copy may have some
        if level is None or matches is None:
            matches = finer.chance(random)
        else:
            matches = grown(matches, level, finer, random)
            _vote(finer, matches)
        level = finer
        rounds, last = ROUNDS[min(k, len(ROUNDS) - 1)], k == len(copies) - 1
        for done in range(1, rounds + 1):
            matches, errors = search(level, matches, random)
            _vote(level, matches, errors, sharp=last and done == rounds)
            yield (k + done / rounds) / len(copies)
    if level is None or matches is None or errors is None or level.hole.shape != hole.shape:
        yield part  # no window is known at full size: there is nothing to copy from
    else:
        yield _blended(part, hole, level, matches, errors)


def _copies(part: Tensor, hole: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Copies of the box, with features and hole, from the smallest one to full size."""
    depth = float(ndimage.distance_transform_edt(hole.numpy()).max())
    halvings = math.ceil(math.log2(max(1.0, 2 * depth / SMALLEST)))
    room = int(math.log2(max(1, min(hole.shape) / (8 * RADIUS))))
    copies = [(torch.cat([_smooth(part, ~hole), TEXTURE * _features(part, hole)]), hole)]
    for _ in range(min(halvings, room)):
        copies.append(_halved(*copies[-1]))
    return copies[::-1]


def _features(part: Tensor, hole: Tensor) -> Tensor:
    """Texture features (2, H, W): mean absolute differences across and down around each pixel.

    Within the hole, they are interpolated.
    """
    gray, size = part.mean(dim=0), 4 * RADIUS + 1
    across = F.pad((gray[:, 1:] - gray[:, :-1]).abs(), (0, 1))
    down = F.pad((gray[1:] - gray[:-1]).abs(), (0, 0, 0, 1))
    # differences across the rim of the hole are unknown
    known = 1 - F.max_pool2d(hole[None].float(), 3, 1, 1)
    steps = torch.stack([across, down]) * known
    mean, share = (
        F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False) for x in (steps, known)
    )
    near = share > 0.1
    return _smooth(torch.where(near, mean / share.clamp_min(1e-3), mean), near[0])


def _halved(values: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Downsample to half the size; a pixel is hidden if most of its area was."""
    known = (~hole).float()[None]
    whole, seen, share = (
        F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        for x in (values, values * known, known)
    )
    small = share[0] < 0.5
    return torch.where(small, whole, seen / share.clamp_min(0.5)), small


def _vote(
    level: Level, matches: Tensor, errors: Tensor | None = None, *, sharp: bool = False
) -> None:
    """Set each hidden pixel to the weighted mean of what the windows over it propose."""
    places = level.hole.flatten().nonzero()[:, 0]
    level.values[places] = votes(level, places, matches, errors, sharp=sharp)


def _blended(part: Tensor, hole: Tensor, level: Level, matches: Tensor, errors: Tensor) -> Tensor:
    """The box with its hole filled, without an edge at the rim or within the hole."""
    made = _joined(part, hole, level, matches, errors)
    steps = _steps(level, len(part), matches, errors)
    return torch.where(hole, _fitted(made, hole, steps).clamp(-1, 1), part)


def _joined(part: Tensor, hole: Tensor, level: Level, matches: Tensor, errors: Tensor) -> Tensor:
    """The box with its hole filled; the difference at the rim is spread smoothly over the hole."""
    colors, shape = len(part), hole.shape
    made = level.values[:, :colors].T.reshape(colors, *shape)
    ring = F.max_pool2d(hole[None].float(), 5, 1, 2)[0].bool() & ~hole
    places = ring.flatten().nonzero()[:, 0]
    proposed = votes(level, places, matches, errors)[:, :colors]
    seam = torch.zeros(colors, hole.numel())
    seam[:, places] = part.flatten(1)[:, places] - proposed.T
    smooth = _smooth(seam.view(colors, *shape), ring)
    return torch.where(hole, made + smooth, part)


def _steps(level: Level, colors: int, matches: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (C, H, W) to the pixels on the right and below, from the matches.

    They differ from zero only at pixels in the hole, and at those on its left and above it.
    """
    shape = level.hole.shape
    values = level.values[:, :colors].T.reshape(colors, *shape)
    right = F.pad(values[:, :, 1:] - values[:, :, :-1], (0, 1))
    down = F.pad(values[:, 1:] - values[:, :-1], (0, 0, 0, 1))
    near = level.hole.clone()
    near[:, :-1] |= level.hole[:, 1:]
    near[:-1] |= level.hole[1:]
    places = near.flatten().nonzero()[:, 0]
    found = replace(level, values=torch.cat([right, down]).flatten(1).T.contiguous())
    out = torch.zeros(2 * colors, near.numel())
    out[:, places] = votes(found, places, matches, errors, sharp=True).T
    across, below = out.view(2, colors, *shape)
    return across, below


def _fitted(made: Tensor, hole: Tensor, steps: tuple[Tensor, Tensor]) -> Tensor:
    """Change the hole of a box (C, H, W) so that neighboring pixels differ by `steps`.

    The result minimizes the squared deviations from the steps, and, with the weight `STAY`, from
    `made`. Known pixels stay. The linear equations are solved by conjugate gradients.
    """
    (tall, wide), (across, below) = hole.shape, (step.flatten(1).numpy() for step in steps)
    places = np.flatnonzero(hole.numpy())
    number = np.full(hole.numel(), -1)
    number[places] = np.arange(len(places))
    given = made.flatten(1).numpy().copy()
    right, lower = places % wide < wide - 1, places < (tall - 1) * wide
    left, upper = places % wide > 0, places >= wide
    # for each kind of neighbor: which pixels have it, its offset, and by how much they exceed it
    kinds = (
        (right, 1, -across[:, places]),
        (left, -1, across[:, np.maximum(places - 1, 0)]),
        (lower, wide, -below[:, places]),
        (upper, -wide, below[:, np.maximum(places - wide, 0)]),
    )
    weight, wanted = np.full(len(places), STAY), STAY * given[:, places]
    pairs = []
    for has, offset, excess in kinds:
        here = np.flatnonzero(has)
        there = places[here] + offset
        inside = number[there] >= 0
        weight[here] += 1
        wanted[:, here] += excess[:, here] + np.where(inside, 0, given[:, there])
        pairs.append(np.stack([here[inside], number[there[inside]]]))
    rows, columns = np.concatenate(pairs, axis=1)
    system = sparse.diags_array(weight) - sparse.coo_array(
        (np.ones(len(rows)), (rows, columns)), shape=(len(places), len(places))
    )
    for color, right_side in zip(given, wanted, strict=True):
        start = color[places]
        color[places], _ = cg(system.tocsr(), right_side, x0=start, rtol=EXACT, maxiter=1000)
    return torch.from_numpy(given).view_as(made)


def _smooth(values: Tensor, known: Tensor) -> Tensor:
    """Spread the known values of (C, H, W) smoothly over the unknown ones."""
    levels = max(1, math.ceil(math.log2(min(known.shape))))
    short = [-n % 2**levels for n in known.shape]
    padding = (0, short[1], 0, short[0])
    values, weight = F.pad(values[None], padding), F.pad(known.float()[None, None], padding)
    return interpolated(values, weight, levels)[0, :, : known.shape[0], : known.shape[1]]
