"""Match windows by PatchMatch (Barnes et al. 2009), and compute hidden pixels from the matches.

Every window that overlaps a hole gets a match: a similar window of the known part. A hidden pixel
becomes the weighted mean of the values that the matches propose for it (:func:`votes`).
All windows are processed at once. Each window tries the shifted matches of its neighbors, and
random places around its current match. It replaces its match by a place that is more similar to the
window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, Tensor

RADIUS = 3  # radius of a window: 7x7 pixels
FEW = 60_000  # number of windows from which only every second pixel is compared, across and down
CHUNK = 1 << 15  # windows that are compared at once
PROBE = 5  # every how many pixels of a window are compared first; they rule out most proposals
FALL = 1.3  # factor by which the weight of a pixel falls with each pixel of depth in the hole
DEEPEST = 40.0  # depth in pixels beyond which the weight is constant
HARD, SOFT = 0.2, 1.0  # decay of a vote with its window's error, in units of the usual error


@dataclass
class Level:
    """A copy of the picture at one size; its hidden pixels are updated.

    Attributes
    ----------
    values : Tensor, (H * W, K)
        Colors, then features.
    hole : Tensor, (H, W), bool
    targets : Tensor, (N,)
        Centers of the windows that overlap the hole.
    number : Tensor, (H * W,)
        Index of each pixel in `targets`; -1 for pixels that are not targets.
    valid : Tensor, (H * W,), bool
        Whether all pixels of the window around a pixel are known.
    weight : Tensor, (H * W,)
        Confidence in a pixel, which falls from the rim of the hole inwards.
    window : Tensor, (P,)
        Index offsets, in the flattened picture, from the center of a window to the pixels that are
        compared.
    mass : Tensor, (N,)
        Sum of the weights of the compared pixels of each target window.
    """

    values: Tensor
    hole: Tensor
    targets: Tensor
    number: Tensor
    valid: Tensor
    weight: Tensor
    window: Tensor
    mass: Tensor

    @classmethod
    def of(cls, values: Tensor, hole: Tensor) -> Level:
        """Make a level from values (K, H, W) and the hole (H, W)."""
        inside = torch.zeros_like(hole)
        inside[RADIUS : hole.shape[0] - RADIUS, RADIUS : hole.shape[1] - RADIUS] = True
        near = F.max_pool2d(hole[None].float(), 2 * RADIUS + 1, 1, RADIUS)[0].bool()
        targets = (near & inside).flatten().nonzero()[:, 0]
        number = torch.full((hole.numel(),), -1)
        number[targets] = torch.arange(len(targets))
        depth = torch.from_numpy(ndimage.distance_transform_edt(hole.numpy())).float().flatten()
        weight = FALL ** -depth.clamp_max(DEEPEST)
        window = _window(hole.shape[1], 1 if len(targets) < FEW else 2)
        mass = torch.zeros(len(targets))
        for offset in window.tolist():
            mass += weight[targets + offset]
        rows, valid = values.flatten(1).T.contiguous(), (inside & ~near).flatten()
        return cls(rows, hole, targets, number, valid, weight, window, mass)

    @property
    def width(self) -> int:
        """Width of the copy in pixels."""
        return self.hole.shape[1]

    def chance(self, random: Generator) -> Tensor:
        """Sample a random known window for each target."""
        sources = self.valid.nonzero()[:, 0]
        return sources[torch.randint(len(sources), (len(self.targets),), generator=random)]


def _window(width: int, step: int = 1) -> Tensor:
    """Offsets of a window's pixels from its center; only every `step`-th row and column."""
    side = torch.arange(-RADIUS, RADIUS + 1, step)
    return (side[:, None] * width + side).flatten()


def search(level: Level, matches: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Run one round of PatchMatch: return better matches (N,) and their errors (N,)."""
    errors = _errors(level, torch.arange(len(matches)), matches, level.window)
    for step in (4, 1):  # the shifted match of a neighbor may fit here, too
        for shift in (step, -step, step * level.width, -step * level.width):
            neighbor = level.number[_within(level, level.targets - shift)]
            proposed = torch.where(neighbor < 0, matches, matches[neighbor.clamp_min(0)] + shift)
            matches, errors = _better(level, matches, errors, proposed)
    tall, wide = level.hole.shape
    reach = float(max(tall, wide))
    while reach >= 1:
        jump = torch.rand((2, len(matches)), generator=random) * 2 - 1
        down, across = (jump * reach).round().long()
        row = (matches // wide + down).clamp(0, tall - 1)
        column = (matches % wide + across).clamp(0, wide - 1)
        matches, errors = _better(level, matches, errors, row * wide + column)
        reach /= 2 if len(matches) < FEW else 4
    return matches, errors


def _within(level: Level, places: Tensor) -> Tensor:
    return places.clamp(0, level.hole.numel() - 1)


def _better(
    level: Level, matches: Tensor, errors: Tensor, proposed: Tensor
) -> tuple[Tensor, Tensor]:
    """Accept the proposals that are known windows and have smaller errors."""
    proposed = _within(level, proposed)
    chosen = (level.valid[proposed] & (proposed != matches)).nonzero()[:, 0]
    probed = torch.zeros(len(level.window), dtype=torch.bool)
    probed[::PROBE] = True
    found = torch.zeros(len(chosen))
    for pixels in (probed, ~probed):
        # errors only grow with the compared pixels: larger ones are ruled out early
        found += _errors(level, chosen, proposed[chosen], level.window[pixels])
        less = found < errors[chosen]
        chosen, found = chosen[less], found[less]
    matches, errors = matches.clone(), errors.clone()
    matches[chosen], errors[chosen] = proposed[chosen], found
    return matches, errors


def _errors(level: Level, numbers: Tensor, matches: Tensor, window: Tensor) -> Tensor:
    """Errors of matches: weighted squared differences between target windows and their matches.

    The differences are summed over the pixels of `window`, which may be a part of the compared
    pixels, and divided by the weight of all compared pixels. Pixels deep in the hole have less
    weight.
    """
    out = torch.empty(len(numbers))
    for start in range(0, len(numbers), CHUNK):
        part = slice(start, start + CHUNK)
        here = (level.targets[numbers[part], None] + window).flatten()
        there = (matches[part, None] + window).flatten()
        # index_select is faster than indexing with brackets
        apart = level.values.index_select(0, here).sub_(level.values.index_select(0, there))
        squares = apart.square_().sum(dim=1).mul_(level.weight.index_select(0, here))
        out[part] = squares.view(-1, len(window)).sum(dim=1) / level.mass[numbers[part]]
    return out


def votes(
    level: Level,
    places: Tensor,
    matches: Tensor,
    errors: Tensor | None = None,
    *,
    sharp: bool = False,
) -> Tensor:
    """For each of P places, the weighted mean (P, K) of the K values that windows propose for it.

    Each window that contains the place proposes a value.

    Parameters
    ----------
    level : Level
    places : Tensor, (P,)
    matches : Tensor, (N,)
        Match of each window.
    errors : Tensor, (N,), optional
        Error of each match. A window with a larger error has less weight.
    sharp : bool
        Give nearly all weight to the best windows, which keeps the grain.
    """
    trust = level.weight[level.targets]
    if errors is not None:
        usual = errors.sort().values[len(errors) // 4 if sharp else 3 * len(errors) // 4]
        scale = 2 * float(usual.clamp_min(1e-6)) * (HARD if sharp else SOFT)
        trust = trust * (-errors / scale).clamp_min(-60).exp()
    side = torch.arange(-RADIUS, RADIUS + 1).float()
    apart = (side[:, None].square() + side.square()).flatten()
    # pixels near the center of a window have more weight
    nearness = (-apart / RADIUS**2 * (2.0 if sharp else 0.5)).exp()
    total = torch.zeros(len(places), 1)
    mean = torch.zeros(len(places), level.values.shape[1])
    for offset, near in zip(_window(level.width).tolist(), nearness.tolist(), strict=True):
        number = level.number[_within(level, places - offset)]
        there, number = number >= 0, number.clamp_min(0)
        weight = (trust[number] * there * near)[:, None]
        proposed = _within(level, matches[number] + offset)
        mean += weight * level.values.index_select(0, proposed)
        total += weight
    unseen = total < 1e-12  # at the picture's border, or if all matches are bad
    return torch.where(unseen, level.values[places], mean / total.clamp_min(1e-12))


def grown(matches: Tensor, small: Level, level: Level, random: Generator) -> Tensor:
    """Upsample matches found at half the size to the size of this level of the pyramid."""
    wide, less = level.width, small.width
    row, column = level.targets // wide, level.targets % wide
    above = (row // 2).clamp_max(small.hole.shape[0] - 1)
    parent = above * less + (column // 2).clamp_max(less - 1)
    number = small.number[parent]
    match = matches[number.clamp_min(0)]
    found = (2 * (match // less) + row % 2) * wide + 2 * (match % less) + column % 2
    found = _within(level, found)
    return torch.where((number >= 0) & level.valid[found], found, level.chance(random))
