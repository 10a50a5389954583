"""The linear spaces: PCA, and LSA, which is PCA of term counts without centering.

Both are solved exactly from second moments, which one pass over the rows collects in O(d^2) memory
however many rows there are. Where d is so large that its square is not welcome, a randomized solver
takes the rows themselves.
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
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import ThreadpoolController
from torch import Tensor

Rows = Any  # (N, d) array, or scipy.sparse matrix where it is not centered
# rows whose products are summed in their own precision before they join the float64 sums
CHUNK = 2048
SQUARES = 2**24  # values of all threads' sums together: wide data are summed by one
NEAR = 512  # rows whose mean is near enough to the mean of all
# rows that join a sketch at once, and directions that it keeps beyond those asked for
PART, SPARE = 256, 20
# columns from which "auto" turns to the randomized solver: the square would take 200 MB
WIDE = 5000


@dataclass(frozen=True)
class LinearSpace:
    """Codes are coordinates along orthonormal directions, from a center.

    Attributes
    ----------
    mean : array, (d,)
        The center; zero for LSA.
    components : array, (k, d)
        Orthonormal rows. Of each, the entry that is largest in size is positive.
    variances : array, (k,)
        Mean squared coordinate of the data along each (PCA: with N - 1, as scikit-learn).
    total : float
        The sum of such variances over all d directions.

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
        """Pictures or rows (B, ...) of d values to codes (B, k)."""
        mean, components = self._like(x)
        return (x.flatten(1) - mean) @ components.T

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, k) to rows (B, d)."""
        mean, components = self._like(z)
        return z @ components + mean

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.mean).to(x), torch.from_numpy(self.components).to(x)


class Moments:
    """Sums over rows from which the directions follow; add rows as they come.

    Parameters
    ----------
    columns : int
    center : bool
        PCA; without it, LSA.
    """

    def __init__(self, columns: int, *, center: bool = True) -> None:
        self.count, self.center = 0, center
        self.pilot = np.zeros(columns)  # near the mean: sums of small numbers lose no digits
        self.sum = np.zeros(columns)
        self.gram = np.zeros((columns, columns))
        self._solved: LinearSpace | None = None

    @classmethod
    def of(cls, rows: Rows, *, center: bool = True) -> Moments:
        """The moments of rows (N, d)."""
        out = cls(rows.shape[1], center=center)
        out.add(rows)
        return out

    def add(self, rows: Rows) -> None:
        """Take more rows (N, d) into account: one pass, chunk by chunk."""
        self._solved = None
        if self.center and self.count == 0:
            self.pilot = np.asarray(
                rows[:: -(-rows.shape[0] // NEAR)].mean(axis=0, dtype=np.float64)
            )  # from all over: the first may be unlike the rest
        workers = max(
            1, min(torch.get_num_threads(), -(-rows.shape[0] // CHUNK), SQUARES // self.gram.size)
        )
        # threads that each own a core are faster than products that share the cores
        alone = 1 if workers > 1 else None
        with _pools().limit(limits=alone, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            for gram, total in pool.map(
                lambda first: self._sums(rows, first, workers), range(workers)
            ):
                self.gram += gram
                self.sum += total
        self.count += rows.shape[0]

    def _sums(
        self, rows: Rows, first: int, workers: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of products (d, d) and of values (d,) over every `workers`-th chunk.

        A chunk's products are of its values less their own mean; what that leaves out is added in
        float64 (Chan, Golub & LeVeque 1983).
        """
        gram, total = np.zeros_like(self.gram), np.zeros_like(self.sum)
        # one for all chunks
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
            product = chunk.T @ chunk
            gram += product.toarray() if hasattr(product, "toarray") else product
        if shifts:
            across = np.stack(halves).T @ np.stack(shifts)
            gram += across + across.T
        return gram, total

    def solve(self, k: int) -> LinearSpace:
        """The k directions of largest variance (Pearson 1901; Deerwester et al. 1990 for LSA);
        found once.
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
    """The leading directions of rows that come in parts, in memory for some rows: where the square
    of d has no room.

    Each part joins the directions so far, as long as their singular values, in one SVD (Ross et al.
    2008, section 3.1). Without a rank all directions are kept, and the result is exact.

    Parameters
    ----------
    columns : int
    rank : int, optional
        Directions that are kept between parts: some more than will be asked for.
    center : bool
        PCA; without it, LSA.
    """

    def __init__(self, columns: int, rank: int | None = None, *, center: bool = True) -> None:
        self.count, self.total, self.rank, self.center = 0, 0.0, rank, center
        self.mean, self.scaled = np.zeros(columns), np.zeros((0, columns))

    @classmethod
    def of(cls, space: LinearSpace, count: int, *, center: bool = True) -> Sketch:
        """What a space that was found in `count` rows keeps of them."""
        out, free = (
            cls(len(space.mean), len(space.components) + SPARE, center=center),
            max(1, count - 1) if center else count,
        )
        out.count, out.total, out.mean = count, space.total * free, space.mean.copy()
        out.scaled = space.components * np.sqrt(space.variances * free)[:, None]
        return out

    def add(self, rows: Rows) -> None:
        """Take more rows (N, d) into account."""
        # where all directions are kept, parts save no memory
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
        """The k directions of largest variance, or as many as are kept."""
        values = np.linalg.norm(self.scaled, axis=1)[:k]
        vectors = self.scaled[:k] / np.maximum(values, np.finfo(float).tiny)[:, None]
        return _space(self.mean, vectors, values**2, self.total, self.count, center=self.center)


@cache
def _pools() -> ThreadpoolController:
    """The thread pools of the libraries in use; to look for them takes milliseconds."""
    return ThreadpoolController()


def randomized(rows: Rows, k: int, seed: int, *, center: bool = True) -> LinearSpace:
    """The same directions from a random sketch of the rows, for wide data (Halko, Martinsson &
    Tropp 2011).
    """
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
