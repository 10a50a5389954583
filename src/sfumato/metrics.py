"""Quality measures of codes, reconstructions and pictures."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize

CHUNK = 512  # number of queries whose similarities are in memory at once


def squared_error(rows: NDArray[Any], again: NDArray[Any]) -> float:
    """Squared error between rows and their reconstructions, both (N, d).

    It is summed over the values of a row and averaged over the rows, as in Hinton & Salakhutdinov
    2006.

    Examples
    --------
    >>> squared_error(np.zeros((2, 3)), np.ones((2, 3)))
    3.0
    """
    return float(np.square(rows.astype(np.float64) - again).sum(axis=1).mean())


def knn_accuracy(
    train: NDArray[Any],
    train_labels: NDArray[Any],
    test: NDArray[Any],
    test_labels: NDArray[Any],
    k: int = 1,
) -> float:
    """Accuracy of a `k`-nearest-neighbor classifier, fitted to training codes, on test codes.

    Examples
    --------
    >>> codes, labels = np.array([[0.0], [9.0]]), np.array(["a", "b"])
    >>> knn_accuracy(codes, labels, np.array([[1.0], [8.0]]), labels)
    1.0
    """
    model = KNeighborsClassifier(min(k, len(train)), algorithm="brute")
    with warnings.catch_warnings():  # that most labels differ
        warnings.simplefilter("ignore", UserWarning)
        return float(model.fit(train, train_labels).score(test, test_labels))


def precision_at(codes: NDArray[Any], labels: NDArray[Any], counts: list[int]) -> dict[int, float]:
    """Precision at k, for each k in `counts` that is smaller than the number of codes.

    Each code is the query once, and the result is the mean over the queries. Precision at k is the
    share of codes with the query's label among the k other codes that are nearest to the query by
    cosine.

    This is the protocol of Hinton & Salakhutdinov 2006, figure 4A.
    """
    most, labels = [k for k in counts if k < len(codes)], _numbered(labels)
    if not most:
        return {}
    near = (
        NearestNeighbors(n_neighbors=max(most), metric="cosine", algorithm="brute")
        .fit(codes)
        .kneighbors(return_distance=False)
    )
    same = labels[near] == labels[:, None]
    return {k: float(same[:, :k].mean()) for k in most}


def _numbered(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Convert labels to integers: text gathered for each neighbor would take much more memory."""
    return np.unique(labels, return_inverse=True)[1]


def mean_average_precision(codes: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean average precision of a ranking by cosine.

    Each code is the query once, unless no other code has its label. All other codes are ranked, and
    the codes with the query's label are relevant.
    """
    total, queries, labels = 0.0, 0, _numbered(labels)
    unit = normalize(codes.astype(np.float32))
    for start in range(0, len(unit), CHUNK):
        near = unit[start : start + CHUNK] @ unit.T
        places = np.arange(start, start + len(near))
        near[places - start, places] = -np.inf
        hits = labels[np.argsort(-near, axis=1, kind="stable")[:, :-1]] == labels[places][:, None]
        found = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
        relevant = hits.sum(axis=1)
        total += float(((found * hits).sum(axis=1) / relevant.clip(1))[relevant > 0].sum())
        queries += int((relevant > 0).sum())
    return total / max(1, queries)


def psnr(a: NDArray[Any], b: NDArray[Any], border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB of pictures (H, W) or (H, W, C) with values 0 to 255.

    `border` pixels on each side are left out. The PSNR of equal pictures is infinite.

    Examples
    --------
    >>> round(psnr(np.zeros((8, 8)), np.full((8, 8), 25.0)), 2)
    20.17
    """
    error = np.square(_inner(a, border).astype(np.float64) - _inner(b, border)).mean()
    return math.inf if error == 0 else float(10 * math.log10(255**2 / error))


def _inner(x: NDArray[Any], border: int) -> NDArray[Any]:
    return x[border : x.shape[0] - border, border : x.shape[1] - border] if border else x


def ssim(a: NDArray[Any], b: NDArray[Any], border: int = 0) -> float:
    """Structural similarity, -1 to 1, of pictures (H, W) or (H, W, C) with values 0 to 255,
    averaged over channels (Wang et al. 2004, equation 13).

    `border` pixels on each side are left out; the rest must have at least 11 pixels per side.

    The settings are those of Wang et al.'s own code, which is used for published results: a
    Gaussian window of 11 x 11 pixels with standard deviation 1.5, K1 = 0.01, K2 = 0.03, and only
    positions where the window lies inside the picture.
    """
    a, b = (_inner(np.asarray(x, np.float64), border) for x in (a, b))
    if a.ndim == 3:
        return float(np.mean([ssim(a[..., c], b[..., c]) for c in range(a.shape[2])]))

    def blur(x: NDArray[Any]) -> NDArray[Any]:
        out: NDArray[Any] = gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]
        return out

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(
        (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    )


def luminance(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Luma Y of pictures (H, W, 3) with values 0 to 255, as in MATLAB's rgb2ycbcr (ITU-R BT.601, 16
    to 235) but not rounded.

    Examples
    --------
    >>> luminance(np.array([[[255.0, 255.0, 255.0]]])).round(3).tolist()
    [[235.0]]
    """
    out: NDArray[np.float64] = (
        16 + np.asarray(rgb, np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    )
    return out


def colorfulness(rgb: NDArray[Any]) -> float:
    """Colorfulness of a picture (H, W, 3) with values 0 to 255.

    It is 0 for a gray picture and about 60 for a vivid photo (Hasler & Suesstrunk 2003, equation
    8).
    """
    red, green, blue = np.moveaxis(np.asarray(rgb, np.float64), -1, 0)
    one, two = red - green, (red + green) / 2 - blue
    return float(math.hypot(one.std(), two.std()) + 0.3 * math.hypot(one.mean(), two.mean()))
