"""The linear spaces: PCA, and LSA, which is PCA of term counts without centering.

Both are computed exactly from second moments. One pass over any number of rows collects these in
O(d^2) memory. If d is too large for this, a randomized solver works on the rows themselves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

Rows = Any  # (N, d) array, or scipy.sparse matrix if not centered
# number of rows whose products are summed in the precision of the rows; these sums are then added
# up in float64
CHUNK = 2048
SQUARES = 2**24  # largest number of values in the sums of all threads: wide data use one thread
NEAR = 512  # number of rows for a first estimate of the mean
# number of rows that are added to a sketch at once, and of directions that it keeps in reserve
PART, SPARE = 256, 20
# above this number of columns, "auto" uses the randomized solver: d x d numbers take 200 MB
WIDE = 5000


@dataclass(frozen=True)
class LinearSpace:
    """A linear space: codes are coordinates along orthonormal directions, relative to a center.

    Attributes
    ----------
    mean : array, (d,)
        The center; zero for LSA.
    components : array, (k, d)
        Orthonormal rows. The entry of largest magnitude in each row is positive.
    variances : array, (k,)
        Mean square of the data's coordinate along each component. For PCA, the sum of squares is
        divided by N - 1, as in scikit-learn.
    total : float
        Sum of the variances over all d directions.

    Examples
    --------
    >>> rows = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.1]])
    >>> space = Moments.of(rows).solve(1)
    >>> z = space.encode(torch.from_numpy(rows))
    >>> bool((space.decode(z) - torch.from_numpy(rows)).abs().max() < 0.1)
    True
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    total: float

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures or rows (B, ...) of d values as codes (B, k)."""
        mean, components = self._like(x)
        return (x.flatten(1) - mean) @ components.T

    def decode(self, z: Tensor) -> Tensor:
        """Decode codes (B, k) to rows (B, d)."""
        mean, components = self._like(z)
        return z @ components + mean

    def explaining(self, share: float) -> LinearSpace:
        """Return the fewest leading directions that explain more than a share of the variance."""
        explained = np.cumsum(self.variances) / max(self.total, np.finfo(float).tiny)
        # as in scikit-learn, a sum that equals the share is not enough
        k = min(len(explained), int(np.searchsorted(explained, share, side="right")) + 1)
        return LinearSpace(self.mean, self.components[:k], self.variances[:k], self.total)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.mean).to(x), torch.from_numpy(self.components).to(x)


class Moments:
    """Second moments of rows, from which the directions are computed; rows can be added in parts.

    Parameters
    ----------
    columns : int
    center : bool
        True for PCA, False for LSA.
    """

    def __init__(self, columns: int, *, center: bool = True) -> None:
        self.count, self.center = 0, center
        self.pilot = np.zeros(columns)  # subtracted before summing, so that no digits are lost
        self.sum = np.zeros(columns)
        self.gram = np.zeros((columns, columns))
        self._solved: LinearSpace | None = None

    @classmethod
    def of(cls, rows: Rows, *, center: bool = True) -> Moments:
        """Compute the moments of rows (N, d)."""
        out = cls(rows.shape[1], center=center)
        out.add(rows)
        return out

    @classmethod
    def of_sketch(cls, sketch: Sketch) -> Moments:
        """Compute the moments of the rows in `sketch`, which must have kept all directions."""
        out = cls(len(sketch.mean), center=sketch.center)
        out.count, out.pilot = sketch.count, sketch.mean.copy()
        out.gram = sketch.scaled.T @ sketch.scaled
        return out

    def add(self, rows: Rows) -> None:
        """Add rows (N, d), in one pass, chunk by chunk."""
        self._solved = None
        if self.center and self.count == 0:
            self.pilot = np.asarray(
                rows[:: -(-rows.shape[0] // NEAR)].mean(axis=0, dtype=np.float64)
            )  # evenly spaced: the first rows may differ from the rest
        workers = max(
            1, min(torch.get_num_threads(), -(-rows.shape[0] // CHUNK), SQUARES // self.gram.size)
        )
        # one thread per core is faster than products that each use all cores
        alone = 1 if workers > 1 else None
        with _pools().limit(limits=alone, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            for gram, total in pool.map(
                lambda first: self._sums(rows, first, workers), range(workers)
            ):
                self.gram += gram
                self.sum += total
        if not np.isfinite(self.gram).all():
            raise ValueError(
                f"the squares of the values are too large for {rows.dtype}; scale the rows, or "
                "give float64"
            )
        self.count += rows.shape[0]

    def _sums(
        self, rows: Rows, first: int, workers: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sums of products (d, d) and of values (d,) over every `workers`-th chunk.

        Each chunk is centered by its own mean before the products; the correction is added in
        float64 (Chan, Golub & LeVeque 1983).
        """
        gram, total = np.zeros_like(self.gram), np.zeros_like(self.sum)
        # one buffer for all chunks
        scratch = (
            np.empty((min(CHUNK, rows.shape[0]), rows.shape[1]), rows.dtype)
            if self.center
            else None
        )
        shifts, halves = [], []
        for start in range(first * CHUNK, rows.shape[0], workers * CHUNK):
            chunk = rows[start : start + CHUNK]
            if scratch is not None:
                ones = np.ones(len(chunk), rows.dtype)
                near = ones @ chunk / rows.dtype.type(len(chunk))
                chunk = np.subtract(chunk, near, out=scratch[: len(chunk)])
                left, shift = (ones @ chunk).astype(np.float64), near - self.pilot
                total += left + len(chunk) * shift
                shifts.append(shift)
                halves.append(left + len(chunk) / 2 * shift)
            with np.errstate(over="ignore", invalid="ignore"):  # `add` refuses such sums
                product = chunk.T @ chunk
            gram += product.toarray() if hasattr(product, "toarray") else product
        if shifts:
            across = np.stack(halves).T @ np.stack(shifts)
            gram += across + across.T
        return gram, total

    def solve(self, k: int) -> LinearSpace:
        """Return the k directions of largest variance (Pearson 1901; Deerwester et al. 1990 for
        LSA); cached.
        """
        if self._solved is not None and len(self._solved.components) == k:
            return self._solved
        n = self.count
        shift = self.sum / n
        scatter = self.gram - n * np.outer(shift, shift) if self.center else self.gram
        part = (len(scatter) - k, len(scatter) - 1) if k < len(scatter) // 2 else None
        values, vectors = scipy.linalg.eigh(scatter, subset_by_index=part, check_finite=False)
        values, vectors = values[::-1][:k].clip(0), vectors.T[::-1][:k]
        self._solved = _space(
            self.pilot + shift, vectors, values, float(np.trace(scatter)), n, center=self.center
        )
        return self._solved


class Sketch:
    """Leading directions of rows that arrive in parts, computed without a d x d matrix.

    This saves memory if d is large.

    One SVD combines each part with the directions found so far, scaled by their singular values
    (Ross et al. 2008, section 3.1). Without a rank, all directions are kept and the result is
    exact.

    Parameters
    ----------
    columns : int
    rank : int, optional
        Number of directions that are kept between parts. It should be larger than the number of
        components needed in the end.
    center : bool
        True for PCA, False for LSA.
    """

    def __init__(self, columns: int, rank: int | None = None, *, center: bool = True) -> None:
        self.count, self.total, self.rank, self.center = 0, 0.0, rank, center
        self.exact = rank is None  # whether all directions are kept
        self.mean, self.scaled = np.zeros(columns), np.zeros((0, columns))

    @classmethod
    def of(cls, space: LinearSpace, count: int, *, center: bool = True) -> Sketch:
        """Build the sketch of `count` rows from `space`, which was fitted to them."""
        out = cls(len(space.mean), len(space.components) + SPARE, center=center)
        free = max(1, count - 1) if center else count
        out.count, out.total, out.mean = count, space.total * free, space.mean.copy()
        out.scaled = space.components * np.sqrt(space.variances * free)[:, None]
        return out

    def add(self, rows: Rows) -> None:
        """Add rows (N, d)."""
        # if all directions are kept, parts save no memory
        step = PART if self.rank else max(1, rows.shape[0])
        for start in range(0, rows.shape[0], step):
            part = rows[start : start + step]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part, np.float64)
            count = self.count + len(part)
            if self.center:
                mean = part.mean(axis=0)
                apart = np.sqrt(self.count * len(part) / count) * (self.mean - mean)
                part = np.vstack([part - mean, apart])
                self.mean += (mean - self.mean) * (len(part) - 1) / count
            self.count, self.total = count, self.total + float(np.square(part).sum())
            _, values, vectors = scipy.linalg.svd(
                np.vstack([self.scaled, part]), full_matrices=False, check_finite=False
            )
            kept = slice(min(self.rank or len(values), len(values), count))
            self.scaled = values[kept, None] * vectors[kept]

    def solve(self, k: int) -> LinearSpace:
        """Return the k directions of largest variance, or fewer if fewer were kept."""
        values = np.linalg.norm(self.scaled, axis=1)[:k]
        vectors = self.scaled[:k] / np.maximum(values, np.finfo(float).tiny)[:, None]
        return _space(self.mean, vectors, values**2, self.total, self.count, center=self.center)


@cache
def _pools() -> ThreadpoolController:
    """Return the thread pools of the loaded libraries; cached, as the search takes milliseconds."""
    return ThreadpoolController()


def randomized(rows: Rows, k: int, seed: int, *, center: bool = True) -> LinearSpace:
    """Compute the k directions of largest variance by a randomized SVD of the rows.

    It is meant for data with many columns.

    Halko, Martinsson & Tropp 2011.
    """
    # imported here, because this module is also imported by `create`, which fits nothing
    from sklearn.utils.extmath import randomized_svd

    mean = (
        np.asarray(rows.mean(axis=0, dtype=np.float64)).ravel()
        if center
        else np.zeros(rows.shape[1])
    )
    centered = rows - mean.astype(rows.dtype) if center else rows
    _, values, vectors = randomized_svd(
        centered, k, n_oversamples=max(20, k // 2), n_iter=6, random_state=seed
    )
    total = (
        float(centered.multiply(centered).sum())
        if hasattr(centered, "multiply")
        else float(np.square(centered, dtype=np.float64).sum())
    )
    return _space(
        mean,
        vectors.astype(np.float64),
        values.astype(np.float64) ** 2,
        total,
        rows.shape[0],
        center=center,
    )


def _space(
    mean: NDArray[Any],
    vectors: NDArray[Any],
    scatter: NDArray[Any],
    total: float,
    n: int,
    *,
    center: bool,
) -> LinearSpace:
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    free = max(1, n - 1) if center else n
    return LinearSpace(
        mean,
        np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0)),
        scatter / free,
        total / free,
    )
