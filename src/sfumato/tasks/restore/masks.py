"""Find the pixels to inpaint: the pixels of a mask, of a box, of a color or of scratches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sfumato import image
from sfumato.data.photo import Photo
from sfumato.denoiser.restorer import FILLS_MARGIN, TILE
from sfumato.errors import OptionError
from sfumato.progress import result_of
from sfumato.space.tile import windows
from sfumato.tasks.restore.options import RestoreOptions, rgb
from sfumato.types import Progress, Reporting

# largest difference from the color in a channel of 0 to 255, and by how many pixels the mask is
# dilated
NEAR, RIM = 40.0, 2
# the same two for JPEG; pixels over which JPEG spreads a color; smallest difference of hue that
# counts
NEAR_JPEG, RIM_JPEG, BLOCK, LEAN = 60.0, 4, 14, 8.0
GOES_ON = 4  # factor by which the threshold is lower where a scratch continues
NO_SCRATCHES = "no scratches were found; paint them white in a picture and give it as --fill"
Damage = Callable[[Tensor], Tensor]


def find(
    photo: Photo, options: RestoreOptions, damage: Damage, *, alone: bool
) -> Reporting[NDArray[np.bool_] | None]:
    """Find the pixels (H, W) to inpaint; None if the options request no inpainting.

    This is a generator: it yields progress, since the search for scratches takes seconds, and
    returns the mask. If only scratches are searched and none are found, the mask is empty. In this
    case, an error is raised if there is nothing else to repair (`alone`).

    Raises
    ------
    OptionError
        For a mask or box that does not fit, and if no pixels or all pixels would be inpainted.
    """
    parts = list(_parts(photo, options))
    if options.fill_scratches:
        found = yield from search_scratches(photo, damage, options.sensitivity)
        parts.append((found, NO_SCRATCHES))
    if not parts:
        return None
    hidden: NDArray[np.bool_] = np.logical_or.reduce([mask for mask, _ in parts])
    only_scratches = options.fill_scratches and len(parts) == 1
    if not hidden.any() and (alone or not only_scratches):
        raise OptionError("; ".join(reason for _, reason in parts))
    if hidden.all():
        raise OptionError(
            "the whole picture would be inpainted, so no known pixels are left; sfumato create "
            "generates new pictures"
        )
    return hidden


def _parts(photo: Photo, options: RestoreOptions) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield each mask that needs no search, and the error message if it is empty."""
    if options.fill is not None:
        yield (
            image.white(image.read_mask(options.fill, photo.size)),
            image.nothing_white(options.fill),
        )
    if options.fill_box is not None:
        yield _box(photo, options.fill_box), ""
    if options.fill_color is not None:
        mask = painted(photo, options.fill_color, options.fill_tolerance)
        yield mask, f"no pixel has the color {options.fill_color}"


def _box(photo: Photo, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    (left, top, width, height), (wide, tall) = box, photo.size
    if width < 1 or height < 1:
        raise OptionError(
            f"the box {left},{top},{width},{height} is empty; give a width and height"
        )
    if left < 0 or top < 0 or left + width > wide or top + height > tall:
        raise OptionError(
            f"the box {left},{top},{width},{height} does not lie within the picture of "
            f"{wide}x{tall} pixels"
        )
    hidden = np.zeros((tall, wide), bool)
    hidden[top : top + height, left : left + width] = True
    return hidden


def of_color(photo: Photo, color: str, tolerance: float | None = None) -> NDArray[np.bool_]:
    """Pixels of nearly the given color; parameters as in :func:`painted`."""
    usual = NEAR if photo.quality is None else NEAR_JPEG
    near = usual if tolerance is None else tolerance
    found = np.ones(photo.values.shape[:2], bool)
    for channel, value in zip(_channels(photo), rgb(color), strict=True):
        found &= np.abs(channel - value) <= near
    return found


def _channels(photo: Photo) -> Iterator[NDArray[np.float32]]:
    """Red, green and blue (H, W) on the scale of 0 to 255."""
    scale = np.float32(255 / photo.top)
    for k in range(3):
        yield photo.values[..., min(k, photo.values.shape[2] - 1)] * scale


def painted(photo: Photo, color: str, tolerance: float | None = None) -> NDArray[np.bool_]:
    """Pixels of nearly the given color, dilated a little, since a brush leaves a soft rim.

    Parameters
    ----------
    photo : Photo
    color : str
        Color such as "#ff0000".
    tolerance : float, optional
        Largest difference from the color in a channel of values 0 to 255; by default 40, or 60 for
        a JPEG.
    """
    jpeg = photo.quality is not None
    rim = RIM_JPEG if jpeg else RIM
    wanted = np.array(rgb(color), np.float32)
    hue = wanted - wanted.mean()
    hue /= np.linalg.norm(hue) or 1
    found = of_color(photo, color, tolerance)
    grown: NDArray[np.bool_] = ndimage.binary_dilation(found, iterations=rim)
    if not jpeg or not hue.any() or not found.any():
        return grown
    # pixels near the color that differ from the surroundings in their amount of its hue
    share = np.zeros(found.shape, np.float32)
    for channel, part in zip(_channels(photo), hue, strict=True):
        share += part * channel
    block: NDArray[np.bool_] = ndimage.binary_dilation(found, iterations=BLOCK)
    outside = (~block).astype(np.float32)
    size = 4 * BLOCK + 1
    mean = ndimage.uniform_filter(share * outside, size) / np.maximum(
        ndimage.uniform_filter(outside, size), 1e-3
    )
    ghost: NDArray[np.bool_] = block & (np.abs(share - mean) > LEAN)
    return grown | ghost


def scratches(photo: Photo, damage: Damage, sensitivity: float = 0.5) -> NDArray[np.bool_]:
    """Find scratches, folds, specks and stains with a network.

    A damaged region has a pixel above a high threshold, and extends to all connected pixels above a
    lower threshold.

    Parameters
    ----------
    photo : Photo
    damage : callable
        Picture (1, 3, h, w) in [-1, 1] -> the share of each pixel that is damage, (1, 1, h, w).
    sensitivity : float, in (0, 1)
        Higher values find more damage, but also mark more undamaged pixels.
    """
    return result_of(search_scratches(photo, damage, sensitivity))


def search_scratches(
    photo: Photo, damage: Damage, sensitivity: float
) -> Reporting[NDArray[np.bool_]]:
    """As :func:`scratches`, but a generator: it yields progress and returns the mask."""
    enough, size = 1 - 0.8 * sensitivity**2, (photo.size[1], photo.size[0])
    found = np.zeros(size, np.float32)
    places = list(windows(size, tile=TILE, margin=FILLS_MARGIN))
    for done, window in enumerate(places):
        yield Progress("looking for scratches", done, len(places))
        x = torch.from_numpy(photo.frame(*window.around))[None]
        share = damage(x.expand(-1, 3, -1, -1))
        found[window.rows, window.columns] = window.cut(share)[0, 0].numpy()
    # over the whole picture, since scratches cross windows
    spread: NDArray[np.bool_] = ndimage.binary_propagation(
        found > enough, mask=found > enough / GOES_ON
    )
    around = np.ones((3, 3), bool)
    return ndimage.binary_dilation(spread, structure=around) if spread.any() else spread
