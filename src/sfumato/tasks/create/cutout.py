"""Make the white background of a picture transparent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from sfumato.image import flattened

GROUND = 10  # largest distance of the background from white, of 255
# the same if hardly any pixels lie between: at most this share of the pixels beyond it
UNEVEN, BETWEEN = 40, 0.05
WIDTH = 2  # largest width of an edge in pixels
SOLID = 0.95  # a pixel with at least this share of the subject's color is not part of an edge
# largest distance of a mixed color from the line between white and the subject's color: as a share
# of its distance from white, and of 255
PURE, FAINT = 0.35, 14


def transparent(picture: Image.Image) -> Image.Image:
    """Make the white around the subject of a picture transparent.

    The background consists of nearly white pixels connected to the picture's border. A pixel at the
    subject's edge is a mixture of white and the subject's color F, ``C = a F + (1 - a) white``. It
    gets the color F and the opacity `a`, so that no white fringe remains. White within the subject
    stays.

    Parameters
    ----------
    picture : PIL.Image.Image
        RGB or RGBA.

    Returns
    -------
    PIL.Image.Image
        RGBA, with the color profile of the picture.

    Examples
    --------
    >>> picture = Image.new("RGB", (8, 8), "white")
    >>> picture.paste("red", (2, 2, 6, 6))
    >>> made = transparent(picture)
    >>> made.getpixel((0, 0))[3], made.getpixel((3, 3))
    (0, (255, 0, 0, 255))
    """
    given = np.asarray(picture.convert("RGBA"))
    ink = 255 - np.asarray(flattened(picture)).astype(np.float64)
    depth = ink.max(axis=2)
    ground = _ground(depth)
    opacity, color = np.where(ground, 0.0, 1.0), ink.copy()
    share, behind, mixed = _mixture(ink, depth)
    edge = ground
    # the lightest pixels of an edge also count as background
    faint = ground & (depth > GROUND) & mixed
    faint &= ndimage.maximum_filter(~ground, size=2 * WIDTH + 1)
    opacity[faint], color[faint] = share[faint], behind[faint]
    for _ in range(WIDTH):
        edge = _next(edge, depth, ground) & mixed & (share < SOLID)
        opacity[edge], color[edge] = share[edge], behind[edge]
    values = np.dstack([255 - color, 255 * opacity]).round().clip(0, 255)
    values[ground & ~faint, :3] = 255
    clear = given[..., 3] < 255  # the picture's own transparency stays
    values[clear] = given[clear]
    made = Image.fromarray(values.astype(np.uint8), "RGBA")
    made.info |= {name: value for name, value in picture.info.items() if name == "icc_profile"}
    return made


def _ground(depth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Nearly white pixels that are connected to the border.

    An upscaler leaves a faint tint on white, so slightly darker pixels also count as background.
    They do not count if the picture has many pixels of such light colors, because these pixels may
    belong to the subject.
    """
    between = ((depth > GROUND) & (depth <= UNEVEN)).sum()
    limit = UNEVEN if between <= BETWEEN * (depth > UNEVEN).sum() else GROUND
    parts, _ = ndimage.label(np.pad(depth <= limit, 1, constant_values=True))
    found: NDArray[np.bool_] = (parts == parts[0, 0])[1:-1, 1:-1]
    return found


def _next(
    edge: NDArray[np.bool_], depth: NDArray[np.float64], ground: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels that touch `edge` and are not lighter than the lightest `edge` pixel they touch."""
    outer = np.where(edge, depth, np.inf)
    lightest = ndimage.minimum_filter(outer, size=3, mode="constant", cval=np.inf)
    found: NDArray[np.bool_] = np.isfinite(lightest) & (depth >= lightest) & ~edge & ~ground
    return found


def _mixture(
    ink: NDArray[np.float64], depth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Describe each pixel as a mixture of white and the darkest color nearby.

    Return three arrays: the share of the darkest color in each pixel, this color (as 255 - RGB),
    and whether the mixture is close to the pixel's own color.
    """
    rows, columns = np.indices(depth.shape)
    # ranks of depth are unique: the highest rank near a pixel gives the darkest pixel's position
    place = rows * depth.shape[1] + columns
    ranked = np.argsort(np.argsort(depth, axis=None, kind="stable"), kind="stable")
    nearest = ndimage.maximum_filter(
        ranked.reshape(depth.shape), size=2 * WIDTH + 1, mode="nearest"
    )
    order = np.argsort(ranked, kind="stable")
    darkest = place.ravel()[order[nearest]]
    behind = ink.reshape(-1, 3)[darkest]
    power = np.maximum((behind**2).sum(axis=2), 1e-9)
    share = ((ink * behind).sum(axis=2) / power).clip(0, 1)
    beside = np.linalg.norm(ink - share[..., None] * behind, axis=2)
    return share, behind, beside <= np.maximum(PURE * np.linalg.norm(ink, axis=2), FAINT)
