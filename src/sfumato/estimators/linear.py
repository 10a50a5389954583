"""PCA and LSA as estimators."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions

from sfumato.errors import ModelError
from sfumato.estimators.base import Reducer, Rows
from sfumato.space.pca import SPARE, WIDE, LinearSpace, Moments, Sketch, randomized

# with at least this many times as many columns as rows, an exact fit uses an SVD (measured by
# `python benchmarks/pca.py --few`)
FEW = 4


class _Linear(Reducer):
    """Base of PCA and LSA, which differ only in whether rows are centered."""

    centered: ClassVar[bool]
    _sums: Moments | Sketch
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "solver": [StrOptions({"auto", "exact", "randomized"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self, n_components: float | None = None, *, solver: str = "auto", random_state: Any = None
    ) -> None:
        self.n_components, self.solver, self.random_state = n_components, solver, random_state

    def fit(self, X: Rows, y: Any = None) -> Self:  # noqa: N803
        """Compute the directions of largest variance of rows (N, d).

        For LSA, the mean square takes the place of the variance.
        """
        self._validate_params()
        rows = self._check(X, reset=True)
        if self._share is not None and self.solver == "randomized":
            raise ValueError(
                f"n_components={self._share} is a share of the variance, which the randomized "
                "solver cannot take; use an integer, or solver='exact'"
            )
        wide = self.solver == "auto" and rows.shape[1] > WIDE and min(rows.shape) > 1
        if self.solver == "randomized" or (wide and self._share is None):
            self.n_samples_seen_ = int(rows.shape[0])
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self.__dict__.pop("_sums", None)
            self._space = randomized(rows, self._enough(rows), seed, center=self.centered)
            return self
        self._enough(rows)
        # an SVD of few rows is faster than their moments; of many columns, only it fits in memory
        few = FEW * rows.shape[0] <= rows.shape[1] and isinstance(rows, np.ndarray)
        if few or (rows.shape[1] > WIDE and rows.shape[0] < rows.shape[1]):
            self._sums = Sketch(rows.shape[1], center=self.centered)
        else:
            self._sums = Moments(rows.shape[1], center=self.centered)
        return self._add(rows)

    def partial_fit(self, X: Rows, y: Any = None) -> Self:  # noqa: N803
        """Update the fit with more rows.

        The result equals one exact fit on all rows, except in three cases:

        - the rows have more than 5,000 columns, `n_components` is an integer, and :meth:`fit` was
          not called before;
        - an earlier fit used the randomized solver;
        - the estimator was loaded from a file.

        In these cases, only the leading directions are kept between calls.
        """
        self._validate_params()
        first = not hasattr(self, "_sums")
        rows = self._check(X, reset=first and not hasattr(self, "_space"))
        if first and hasattr(self, "_space"):
            self._sums = Sketch.of(self._space, self.n_samples_seen_, center=self.centered)
        elif first and rows.shape[1] > WIDE:
            wanted = self._number
            rank = None if wanted is None else wanted + SPARE
            self._sums = Sketch(rows.shape[1], rank, center=self.centered)
        elif first:
            self._sums = Moments(rows.shape[1], center=self.centered)
        elif isinstance(self._sums, Sketch) and self._sums.exact and rows.shape[1] <= WIDE:
            self._sums = Moments.of_sketch(self._sums)
        return self._add(rows)

    def _add(self, rows: Rows) -> Self:
        self._sums.add(rows)
        self.n_samples_seen_ = self._sums.count
        # parameters that are set later do not change the fit
        self._fitted_count, self._fitted_share = self._count(), self._share
        return self

    @property
    def _share(self) -> float | None:
        """The share of the variance to explain if `n_components` is a float, else None."""
        return self.n_components if isinstance(self.n_components, float) else None

    @property
    def _number(self) -> int | None:
        """The number of components if `n_components` is an integer, else None."""
        if self._share is not None or self.n_components is None:
            return None
        return int(self.n_components)

    def _enough(self, rows: Rows) -> int:
        """Return `n_components` if it is an integer, else the most that these rows allow."""
        most, wanted = min(rows.shape), self._number
        if wanted is not None and wanted > most:
            raise ValueError(
                f"n_components={wanted} must be between 1 and min(n_samples, n_features)={most}"
            )
        return most if wanted is None else wanted

    def _count(self) -> int:
        """Return `n_components` if it is an integer, else the most that all rows so far allow."""
        most, wanted = min(self.n_features_in_, self.n_samples_seen_), self._number
        if wanted is not None and wanted > self.n_features_in_:
            raise ValueError(
                f"n_components={wanted} must be between 1 and n_features={self.n_features_in_}"
            )
        return most if wanted is None else wanted

    @property
    def space_(self) -> LinearSpace:
        """The fitted space. It is computed on first access, so partial fits only update sums."""
        if not hasattr(self, "_sums"):
            return self._space
        space = self._sums.solve(self._fitted_count)
        return space if self._fitted_share is None else space.explaining(self._fitted_share)

    @property
    def n_components_(self) -> int:
        """Code length."""
        return len(self.space_.components)

    @property
    def components_(self) -> NDArray[np.float64]:
        """Orthonormal directions (k, d); the entry of largest magnitude in each is positive."""
        return self.space_.components

    @property
    def mean_(self) -> NDArray[np.float64]:
        """Center of the rows, (d,); zero for LSA."""
        return self.space_.mean

    @property
    def explained_variance_(self) -> NDArray[np.float64]:
        """Variance of the rows along each direction (k,); for LSA, the mean square."""
        return self.space_.variances

    @property
    def explained_variance_ratio_(self) -> NDArray[np.float64]:
        """Share of the total variance along each direction (k,), 0 to 1."""
        return self.space_.variances / max(self.space_.total, np.finfo(float).tiny)

    @property
    def singular_values_(self) -> NDArray[np.float64]:
        """Singular values (k,) of the (for PCA, centered) rows."""
        free = max(1, self.n_samples_seen_ - 1) if self.centered else self.n_samples_seen_
        values: NDArray[np.float64] = np.sqrt(self.space_.variances * free)
        return values

    def _encode(self, rows: Rows) -> NDArray[Any]:
        # center before the product: a difference of large codes would lose digits
        centered = rows - self.mean_.astype(rows.dtype) if self.centered else rows
        codes: NDArray[Any] = np.asarray(centered @ self.components_.astype(rows.dtype).T)
        return codes

    def _decode(self, codes: NDArray[Any]) -> NDArray[Any]:
        rows: NDArray[Any] = codes @ self.components_.astype(codes.dtype) + self.mean_.astype(
            codes.dtype
        )
        return rows

    def _state(self) -> dict[str, Any]:
        return {"total": self.space_.total, "n_samples_seen": self.n_samples_seen_}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": self.mean_,
            "components": self.components_,
            "variances": self.explained_variance_,
        }

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self.n_samples_seen_ = state["n_samples_seen"]
        mean, components, variances = (arrays[k] for k in ("mean", "components", "variances"))
        columns, count = self.n_features_in_, len(components)
        if (mean.shape, components.shape) != ((columns,), (count, columns)) or len(
            variances
        ) != count:
            raise ModelError(
                f"the arrays of the {type(self).__name__} do not fit {columns} columns"
            )
        self._space = LinearSpace(mean, components, variances, state["total"])


class PCA(_Linear):
    """Principal component analysis (Pearson 1901).

    With up to 5,000 columns, the fit is exact and reads the rows once, however many they are.

    Parameters
    ----------
    n_components : int or float, optional
        Code length; by default the number of rows or of columns, whichever is smaller. A float
        above 0 and below 1 is a share of the variance: the code then has the fewest directions that
        explain more than this share.
    solver : {"auto", "exact", "randomized"}
        "exact" needs memory for columns x columns numbers. With more than 5,000 columns and fewer
        rows than columns, it needs only rows x columns. "auto" means "randomized" for more than
        5,000 columns, else "exact".
    random_state : int, RandomState or None
        Seed of the randomized solver.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 5)) * [9, 3, 1, 1, 1]
    >>> pca = PCA(n_components=2).fit(rows)
    >>> pca.transform(rows).shape, pca.inverse_transform(pca.transform(rows)).shape
    ((100, 2), (100, 5))
    """

    centered: ClassVar[bool] = True


class LSA(_Linear):
    """Latent semantic analysis: the truncated SVD of term counts (Deerwester et al. 1990).

    Rows can be sparse.

    Parameters
    ----------
    n_components, solver, random_state
        As in :class:`PCA`.

    Examples
    --------
    >>> import scipy.sparse
    >>> counts = scipy.sparse.csr_matrix([[2.0, 1, 0, 0], [1, 2, 0, 0], [0, 0, 3, 1], [0, 0, 1, 2]])
    >>> LSA(n_components=2).fit_transform(counts).round(1).shape
    (4, 2)
    """

    centered: ClassVar[bool] = False
    accepts_sparse: ClassVar[bool] = True
