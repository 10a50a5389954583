"""Colorize a gray photo.

The chroma is estimated on a small copy and added to the luminance of the full photo, which stays
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter1d, uniform_filter, uniform_filter1d
from torch import Tensor

from sfumato.corruption.color import Grayscale
from sfumato.corruption.resample import magnify
from sfumato.data.photo import Photo
from sfumato.image import LUMA
from sfumato.tasks.restore.hints import spread
from sfumato.tasks.restore.options import rgb

SIDE = 96  # the longer side of the small copy, about as large as photos were in training
# relative sizes and gammas of the views of a photo for which colors are estimated
SIZES, GAMMAS = (0.7, 1.0, 1.5), (0.8, 1.0, 1.25)
STRENGTH = 1.15  # factor for the combined estimate
# chroma is smoothed fully up to the first JPEG quality, and not at all from the second on
BLOCKS = 10, 20
DOUBT = 6.0  # how strongly disagreement of the views desaturates their mean
TONED = 6  # largest chroma, of 255, that compression may add to a toned print
# factors for the differences of blue and red from luminance, so that all colors lie in [-1, 1]
BLUE, RED = 0.564, 0.713
LIGHTS = 24  # brightness levels at which palettes are compared
ROWS = 256  # rows of the full picture that are processed at once
HINTED = 192  # the longer side of the copy over which hints are spread
# reach of the last correction at a hint: share of the longer side, and luminance in [-1, 1]
REACH, LIKENESS = 0.02, 0.15


def colorize(
    photo: Photo,
    hints: tuple[tuple[int, int, str], ...],
    scale: float,
    chroma_of: Callable[[Tensor], Tensor],
    *,
    saturation: float = 1.0,
    like: Photo | None = None,
) -> Photo:
    """Add color to a photo's luminance.

    Parameters
    ----------
    photo : Photo
        A gray photo, or one whose colors are replaced.
    hints : tuple of (x, y, "#rrggbb")
        Known colors, at positions in the picture before it was enlarged by `scale`.
    chroma_of : callable
        Luminance (1, 1, h, w) in [-1, 1] -> chroma (1, 3, h, w), to be added to the luminance.
    saturation : float
        Factor for the estimated chroma: 0 gives gray, 1 the default saturation.
    like : Photo, optional
        A color photo that gives the palette.
    """
    wide, tall = photo.size
    small_gray = luminance(shrunk(photo, SIDE)).astype(np.float32)
    guessed = consensus_chroma(torch.from_numpy(small_gray)[None, None], chroma_of)[0].numpy()
    if like is not None:
        guessed = with_palette(guessed, small_gray, shrunk(like, SIDE))
    slope, offset = guided_filter(small_gray, STRENGTH * saturation * guessed)
    places = [
        (min(wide - 1, int(scale * x)), min(tall - 1, int(scale * y)), color)
        for x, y, color in hints
    ]
    if places:
        slope, offset = _with_hints(photo, places, slope, offset)

    def guess(rows: slice) -> tuple[Tensor, Tensor]:
        """Chroma (1, 3, h, W) and luminance (1, 1, h, W) of some rows."""
        gray = torch.from_numpy(luminance(photo.values[rows]) * (2 / photo.top) - 1).float()[
            None, None
        ]
        a, b = (_grown(x, (tall, wide), rows) for x in (slope, offset))
        return a * gray + b, gray

    exactly = _Hints(places, max(photo.size), guess)
    out = np.empty((tall, wide, 3), photo.values.dtype)
    for top in range(0, tall, ROWS):
        rows = slice(top, min(tall, top + ROWS))
        chroma, gray = guess(rows)
        out[rows] = photo.stored(with_luminance(exactly(chroma, gray, top), gray)[0].numpy())
    return photo.with_values(out)


def _with_hints(
    photo: Photo, hints: list[tuple[int, int, str]], slope: NDArray[Any], offset: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Slope and offset of the chroma after the hints are spread over their regions."""
    gray = luminance(shrunk(photo, HINTED)).astype(np.float32)
    tall, wide = gray.shape
    a, b = (_grown(x, (tall, wide), slice(0, tall))[0].numpy() for x in (slope, offset))
    chroma = a * gray + b
    shrink = np.array([tall / photo.size[1], wide / photo.size[0]])
    places = (np.array([(y, x) for x, y, _ in hints]) * shrink).astype(np.int64)
    missing = wanted_chroma(hints).numpy() - chroma[:, places[:, 0], places[:, 1]].T
    chroma += spread(gray, places, missing).transpose(2, 0, 1).astype(np.float32)
    return guided_filter(gray, chroma, radius=2)


def wanted_chroma(hints: list[tuple[int, int, str]]) -> Tensor:
    """Chroma (K, 3) of the hinted colors: the difference from their luminance."""
    colors = torch.tensor([rgb(color) for _, _, color in hints]) / 127.5 - 1
    return colors - (colors * colors.new_tensor(LUMA)).sum(1, keepdim=True)


def consensus_chroma(gray: Tensor, chroma_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Combine the chroma (1, 3, h, w) estimated from several views of a photo (1, 1, h, w).

    A mirrored, resized, brightened or darkened photo has the same colors. Where the estimates for
    these views differ, the colors are uncertain. The mean is therefore desaturated by ``m^2 / (m^2
    + DOUBT v)``, with mean m and variance v of the estimates (Wiener filter).
    """
    size, guesses = gray.shape[-2:], []
    for scale in SIZES:
        sides = [max(16, round(side * scale)) for side in size]
        view = F.interpolate(gray, sides, mode="bilinear", antialias=True)
        for gamma in GAMMAS:
            shaded = 2 * ((view + 1) / 2).clamp(0, 1) ** gamma - 1
            for mirrored in (False, True):
                guess = chroma_of(shaded.flip(-1) if mirrored else shaded)
                guess = guess.flip(-1) if mirrored else guess
                guesses.append(F.interpolate(guess, size, mode="bilinear"))
    both = torch.stack(guesses)
    mean = both.mean(dim=0)
    variance = (both - mean).square().sum(dim=2, keepdim=True).mean(dim=0)
    power = mean.square().sum(dim=1, keepdim=True)
    return mean * power / (power + DOUBT * variance + 1e-6)


def shrunk(photo: Photo, side: int) -> NDArray[np.float64]:
    """A copy (h, w, 3) in [-1, 1] of a photo, with at most `side` pixels on the longer side."""
    wide, tall = photo.size
    shrink = min(1.0, side / max(wide, tall))
    small = (max(1, round(wide * shrink)), max(1, round(tall * shrink)))
    copy = np.empty((tall, wide, 3), np.uint8)
    for top in range(0, tall, ROWS):
        copy[top : top + ROWS] = photo.values[top : top + ROWS] * (255 / photo.top) + 0.5
    values = np.asarray(Image.fromarray(copy).resize(small, Image.Resampling.BOX), np.float64)
    return values / 127.5 - 1


def with_palette(
    chroma: NDArray[Any], gray: NDArray[Any], reference: NDArray[Any]
) -> NDArray[np.float32]:
    """Give chroma (3, h, w) of luminance (h, w) the palette of a reference (H, W, 3).

    At each brightness, the mean chroma becomes the mean chroma of the reference. Deviations from
    the mean get the reference's covariance by the linear Monge-Kantorovich map, which moves colors
    least (Pitie & Kokaram 2007, equation 12).
    """
    light = luminance(reference)
    plane, wanted = (
        plane_of(torch.from_numpy(x)[None])[0].numpy().reshape(2, -1).astype(np.float64)
        for x in (chroma + gray, reference.transpose(2, 0, 1))
    )
    mean, other = _by_light(plane, gray.ravel()), _by_light(wanted, light.ravel())
    own = plane - mean(gray.ravel())
    spread = _root(np.cov(own, bias=True) + 1e-6 * np.eye(2))
    aim = np.cov(wanted - other(light.ravel()), bias=True)
    inverse = np.linalg.inv(spread)
    moved = inverse @ _root(spread @ aim @ spread) @ inverse @ own + other(gray.ravel())
    placed = torch.from_numpy(moved.reshape(1, 2, *gray.shape)).float()
    return chroma_at(placed)[0].numpy()


def plane_of(x: Tensor) -> Tensor:
    """Color differences Cb and Cr (B, 2, H, W) of RGB colors (B, 3, H, W)."""
    gray = (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1)
    return torch.stack([BLUE * (x[:, 2] - gray), RED * (x[:, 0] - gray)], dim=1)


def chroma_at(plane: Tensor) -> Tensor:
    """Chroma (B, 3, H, W) from color differences Cb and Cr (B, 2, H, W)."""
    blue, red = plane[:, 0] / BLUE, plane[:, 1] / RED
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return torch.stack([red, green, blue], dim=1)


def _root(matrix: NDArray[Any]) -> NDArray[Any]:
    """The square root of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    found: NDArray[Any] = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    return found


def _by_light(plane: NDArray[Any], light: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The smooth function from brightness (N,) to the mean color differences (2, N) there."""
    edges = np.linspace(-1, 1, LIGHTS + 1)
    place = np.digitize(light, edges[1:-1])
    count = gaussian_filter1d(np.bincount(place, minlength=LIGHTS).astype(float), 1.5)
    sums = np.stack([np.bincount(place, part, LIGHTS) for part in plane])
    means = gaussian_filter1d(sums, 1.5, axis=1) / np.maximum(count, 1e-9)
    seen, centers = count > 1e-3, (edges[1:] + edges[:-1]) / 2
    return lambda at: np.stack([np.interp(at, centers[seen], m[seen]) for m in means])


def tone(photo: Photo, hidden: NDArray[np.bool_] | None = None) -> Tensor | None:
    """Chroma of a toned print (such as sepia) at each of 256 luminance values: (256, 3).

    The values are in [-1, 1]. None for a color or gray picture.
    A print is toned if its chroma, averaged over 5x5 pixels, differs nowhere by more than `TONED`
    (of 255) from the mean chroma at its luminance. Pixels that are `hidden` (H, W), such as a red
    line across the print, do not count.
    """
    if photo.gray:
        return None
    step = -(-max(photo.size) // 1024)
    small = Image.fromarray(
        photo.values if photo.top == 255 else (photo.values >> 8).astype(np.uint8)
    )
    # averages, so a thin line has an effect, too
    values = np.asarray(small.reduce(step), np.float32)
    covered = (
        np.zeros(values.shape[:2], bool)
        if hidden is None
        else np.asarray(Image.fromarray(hidden.view(np.uint8) * 255).reduce(step)) > 0
    )
    known = (~covered).astype(np.float64)
    gray = luminance(values)
    chroma, level = (values - gray[..., None]) * known[..., None], gray.round().astype(int)
    count = np.bincount(level.ravel(), known.ravel(), 256)
    sums = np.stack(
        [np.bincount(level.ravel(), chroma[..., k].ravel(), 256) for k in range(3)], axis=1
    )
    mean = (sums / np.maximum(count, 1)[:, None])[level] * known[..., None]
    if not count.any() or np.abs(uniform_filter(chroma - mean, (5, 5, 0))).max() > TONED:
        return None
    # average over similar luminance
    sums, around = uniform_filter1d(sums, 9, axis=0), uniform_filter1d(count, 9)
    seen = np.flatnonzero(around > 0.1)  # one pixel is enough
    near = sums[seen] / around[seen, None]
    return torch.from_numpy(
        np.stack([np.interp(np.arange(256), seen, near[:, k]) for k in range(3)], axis=1) / 127.5
    ).float()


def has_colors(photo: Photo) -> bool:
    """Whether a photo is neither gray nor a toned print."""
    return not photo.gray and tone(photo) is None


def toned(gray: Tensor, chroma: Tensor) -> Tensor:
    """Apply a tone (256, 3) to luminance (1, 1, h, w) in [-1, 1]; returns (1, 3, h, w)."""
    place = ((gray[:, 0] + 1) * 127.5).clamp(0, 255)
    low = place.long().clamp(max=254)
    part = (place - low)[..., None]
    return gray + ((1 - part) * chroma[low] + part * chroma[low + 1]).movedim(-1, 1)


class _Hints:
    """Corrects chroma so that it has exactly the hinted colors at their positions.

    After the hints were spread over their regions, small differences from the hinted colors remain.
    They are interpolated by a Gaussian kernel over position and luminance, and added to the chroma.
    """

    def __init__(
        self,
        hints: list[tuple[int, int, str]],
        side: int,
        guess: Callable[[slice], tuple[Tensor, Tensor]],
    ) -> None:
        self.reach = REACH * side
        self.places = torch.zeros(0, 3)
        if not hints:
            return
        rows = [guess(slice(y, y + 1)) for _, y, _ in hints]
        self.places = torch.stack(
            [
                self._place(x, y, gray[0, 0, 0, x])
                for (x, y, _), (_, gray) in zip(hints, rows, strict=True)
            ]
        )
        missing = wanted_chroma(hints) - torch.stack(
            [chroma[0, :, 0, x] for (x, _, _), (chroma, _) in zip(hints, rows, strict=True)]
        )
        self.weights = torch.linalg.lstsq(
            self._near(self.places).double(), missing.double(), driver="gelsd"
        ).solution.float()

    def _place(self, x: int, y: int, gray: Tensor) -> Tensor:
        return torch.stack(
            [torch.tensor(x / self.reach), torch.tensor(y / self.reach), gray / LIKENESS]
        )

    def _near(self, places: Tensor) -> Tensor:
        """Kernel values (N, K) between positions (N, 3) and the hints."""
        likeness: Tensor = torch.exp(-0.5 * torch.cdist(places, self.places).square())
        return likeness

    def __call__(self, chroma: Tensor, gray: Tensor, top: int) -> Tensor:
        """Correct chroma (1, 3, h, W) of the rows from `top` on."""
        if not len(self.places):
            return chroma
        tall, wide = gray.shape[-2:]
        down, across = torch.meshgrid(
            torch.arange(top, top + tall) / self.reach,
            torch.arange(wide) / self.reach,
            indexing="ij",
        )
        near = self._near(torch.stack([across, down, gray[0, 0] / LIKENESS], dim=-1).view(-1, 3))
        out: Tensor = chroma + (near @ self.weights).T.view_as(chroma)
        return out


def deblock_chroma(x: Tensor, quality: float) -> Tensor:
    """Remove the squares of uniform color that strong JPEG compression leaves.

    In a picture (1, 3, h, w), a guided filter over about one square (17x17 pixels) makes the chroma
    a local linear function of the luminance. The squares are visible in flat parts of a picture.

    From quality `BLOCKS[1]` on, the picture stays unchanged, since too much detail would be lost.
    """
    low, high = BLOCKS
    share = min(1.0, max(0.0, (high - quality) / (high - low)))
    if not share:
        return x
    gray = Grayscale().apply(x)
    light = gray[0, 0].numpy()
    slope, offset = guided_filter(light, (x - gray)[0].numpy(), radius=8)
    smooth = torch.from_numpy(slope * light + offset)[None].to(x)
    return (1 - share) * x + share * (gray + smooth)


def guided_filter(
    gray: NDArray[Any], chroma: NDArray[Any], radius: int = 4, smooth: float = 1e-3
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fit chroma (3, h, w) as a local linear function of luminance (h, w).

    This is the guided filter (He et al. 2013, equations 5, 6 and 8).

    Slope and offset can be upsampled and applied to a larger copy of the luminance. The colors then
    stop where the luminance has an edge.

    Returns
    -------
    slope, offset : array, (3, h, w)
    """

    def mean(x: NDArray[Any]) -> NDArray[Any]:
        out: NDArray[Any] = uniform_filter(
            x, (0,) * (x.ndim - 2) + (2 * radius + 1,) * 2, mode="nearest"
        )
        return out

    m, c = mean(gray), mean(chroma)
    slope = (mean(gray * chroma) - m * c) / (mean(gray * gray) - m * m + smooth)
    return mean(slope), mean(c - slope * m)


def _grown(x: NDArray[Any], size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of (3, h, w) upsampled to (3, *size)."""
    down, tall = magnify(x.shape[1], size[0], rows.start, rows.stop)
    across, wide = magnify(x.shape[2], size[1], 0, size[1])
    return tall.float() @ torch.from_numpy(x[:, down, across]).float()[None] @ wide.float().T


def luminance(values: NDArray[Any]) -> NDArray[np.float64]:
    """Luminance (...,) of values (..., 1 or 3), on the same scale."""
    out: NDArray[np.float64] = (
        values[..., 0].astype(np.float64) if values.shape[-1] == 1 else values @ np.array(LUMA)
    )
    return out


def with_luminance(chroma: Tensor, gray: Tensor) -> Tensor:
    """Add chroma (B, 3, H, W) to the luminance `gray` (B, 1, H, W).

    The chroma is desaturated where the sum would leave [-1, 1].
    """
    chroma = chroma - Grayscale().apply(chroma)
    room = torch.where(
        chroma > 0, (1 - gray) / chroma.clamp_min(1e-6), (1 + gray) / (-chroma).clamp_min(1e-6)
    )
    return gray + chroma * room.amin(dim=1, keepdim=True).clamp(0, 1)
