"""Spread hinted colors over the regions that they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import spsolve

LIKENESS = 0.08  # difference of luminance, in [-1, 1], that two neighbors of one object may have
LEAST = 1e-6  # smallest weight between neighbors
FAR = 3.0  # reach of a hint in a flat picture, in units of the longer side
# difference of luminance from the nearest hint at which this reach falls to 1 / e, and the smallest
# reach in pixels
ALIKE, NEAREST = 0.5, 0.1
FIRM = 100.0  # weight of a hint, relative to the weight of a neighbor


def spread(
    gray: NDArray[Any], places: NDArray[np.int64], values: NDArray[Any]
) -> NDArray[np.float64]:
    """Spread values at some pixels over the picture, up to the edges in it.

    The result ``c`` minimizes ``sum_rs w_rs |c_r - c_s|^2 + |c|^2 / reach^2`` over neighboring
    pixels r and s, plus ``FIRM |c - v|^2`` at the places of the given values ``v``. The weight
    falls with the difference of luminance: ``w_rs = exp(-(g_r - g_s)^2 / 2 LIKENESS^2)``. This is
    colorization by optimization (Levin et al. 2004, equation 1) with the symmetric weights of
    random walks (Grady 2006, equation 1). The second term keeps the result near 0 where no hint
    reaches. ``reach`` is `FAR` times the longer side. It is smaller where the luminance differs
    from that of all hints, since such a pixel often belongs to another object.

    Parameters
    ----------
    gray : array, (h, w), in [-1, 1]
    places : array, (K, 2)
        Row and column of each hint.
    values : array, (K, C)

    Returns
    -------
    array, (h, w, C)

    Examples
    --------
    >>> gray = np.zeros((8, 9)); gray[:, 4:] = 1
    >>> c = spread(gray, np.array([[3, 1]]), np.array([[1.0]]))[..., 0]
    >>> bool(c[:, :4].min() > 0.5), bool(c[:, 4:].max() < 0.1)
    (True, True)
    """
    tall, wide = gray.shape
    pixel = np.arange(gray.size).reshape(tall, wide)
    light = gray.ravel()
    first = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
    second = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
    weights = np.exp(-((light[first] - light[second]) ** 2) / (2 * LIKENESS**2)) + LEAST
    ends = np.concatenate([first, second]), np.concatenate([second, first])
    size = (gray.size, gray.size)
    near = scipy.sparse.coo_array((np.tile(weights, 2), ends), size).tocsr()
    hinted = np.bincount(places @ (wide, 1), minlength=gray.size)
    apart = np.abs(light[:, None] - light[places @ (wide, 1)]).min(axis=1)
    reach = FAR * max(tall, wide) * np.exp(-((apart / ALIKE) ** 2))
    held = near.sum(axis=1) + 1 / np.maximum(reach, NEAREST) ** 2 + FIRM * hinted
    wanted = np.zeros((gray.size, values.shape[1]))
    np.add.at(wanted, places @ (wide, 1), FIRM * values)
    found = spsolve((scipy.sparse.diags_array(held) - near).tocsc(), wanted)
    out: NDArray[np.float64] = np.asarray(found).reshape(tall, wide, -1)
    return out
