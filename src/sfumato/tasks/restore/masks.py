"""Where a photo is to be made anew: painted in a mask, in a box, in one color, or scratched."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sfumato import image
from sfumato.data.photo import Photo
from sfumato.denoiser.restorer import MARGIN, TILE
from sfumato.errors import OptionError
from sfumato.space.tile import windowed
from sfumato.tasks.restore.options import RestoreOptions, rgb

# a scratch is changed so much somewhere, and so much everywhere
SURE, MAYBE = 30 / 127.5, 12 / 127.5
NEAR = 40  # largest difference in a channel of 0 to 255 of what counts as a color


def find(
    photo: Photo, options: RestoreOptions, unscratch: Callable[[Tensor], Tensor]
) -> NDArray[np.bool_] | None:
    """The pixels (H, W) that the options ask to be made anew; None if they ask for none.

    Raises
    ------
    OptionError
        For a mask or box that does not fit, and if what is asked for is nowhere or everywhere.
    """
    parts = list(_parts(photo, options, unscratch))
    if not parts:
        return None
    hidden: NDArray[np.bool_] = np.logical_or.reduce([mask for mask, _ in parts])
    if not hidden.any():
        raise OptionError("; ".join(reason for _, reason in parts))
    if hidden.all():
        raise OptionError(
            "all of the picture is to be made anew: nothing is left to go by; sfumato create makes "
            "new pictures"
        )
    return hidden


def _parts(
    photo: Photo, options: RestoreOptions, unscratch: Callable[[Tensor], Tensor]
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Each mask that is asked for, and what to say if it is empty."""
    if options.fill is not None:
        yield (
            image.white(image.read_mask(options.fill, photo.size)),
            image.nothing_white(options.fill),
        )
    if options.fill_box is not None:
        yield _box(photo, options.fill_box), ""
    if options.fill_color is not None:
        yield painted(photo, options.fill_color), f"no pixel has the color {options.fill_color}"
    if options.fill_scratches:
        yield (
            scratches(photo, unscratch),
            "no scratches were found; paint them white in a picture and give it as --fill",
        )


def _box(photo: Photo, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    (left, top, width, height), (wide, tall) = box, photo.size
    if width < 1 or height < 1 or left < 0 or top < 0 or left + width > wide or top + height > tall:
        raise OptionError(
            f"the box {left},{top},{width},{height} does not lie within the picture of "
            f"{wide}x{tall} pixels"
        )
    hidden = np.zeros((tall, wide), bool)
    hidden[top : top + height, left : left + width] = True
    return hidden


def painted(photo: Photo, color: str) -> NDArray[np.bool_]:
    """Pixels of nearly that color, grown by two pixels, for a brush leaves a soft rim."""
    wanted = np.array(rgb(color)) * (photo.top / 255)
    far = np.zeros(photo.values.shape[:2], bool)
    for k in range(3):
        channel = photo.values[..., min(k, photo.values.shape[2] - 1)]
        far |= np.abs(channel - np.float32(wanted[k])) > NEAR * photo.top / 255
    return ndimage.binary_dilation(~far, iterations=2)  # type: ignore[no-any-return]


def scratches(photo: Photo, repair: Callable[[Tensor], Tensor]) -> NDArray[np.bool_]:
    """Pixels that a network which learnt to undo scratches, untold where they are, wants to change
    much.

    Parameters
    ----------
    photo : Photo
    repair : callable
        Picture (1, 3, h, w) in [-1, 1] -> the same without scratches.
    """
    sure, maybe = (np.zeros(photo.values.shape[:2], bool) for _ in range(2))

    def change(rows: slice, columns: slice) -> Tensor:
        x = torch.from_numpy(photo.frame(rows, columns))[None].expand(-1, 3, -1, -1)
        return (repair(x) - x).abs().amax(dim=1, keepdim=True)

    for rows, columns, part in windowed(
        change, (photo.size[1], photo.size[0]), tile=TILE, margin=MARGIN
    ):
        sure[rows, columns], maybe[rows, columns] = (
            part[0, 0].numpy() > SURE,
            part[0, 0].numpy() > MAYBE,
        )
    # of the whole picture: a scratch knows no windows
    found: NDArray[np.bool_] = ndimage.binary_propagation(sure, mask=maybe)
    return ndimage.binary_dilation(found, structure=np.ones((3, 3), bool)) if found.any() else found
