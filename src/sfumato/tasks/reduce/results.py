"""Results of a comparison, and their summary in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sfumato.tasks.reduce.options import ReduceOptions

ZERO = 1e-9  # a squared error that counts as 0


@dataclass(frozen=True, eq=False)
class Trial:
    """The result of one method at one code length.

    Attributes
    ----------
    method : str
    codes : int
    error : float
        Squared error, summed over the values of a row and averaged over the test rows.
    seconds : float
        Fitting time.
    parameters : int
    accuracy : dict
        k-NN accuracy, keyed by k; empty without labels.
    precision : dict
        Retrieval precision, keyed by the number of neighbors; empty if the rows are not documents
        with labels.
    average_precision : float, optional
        Mean average precision of retrieval; None if the rows are not documents with labels.
    test_codes : array
        Codes of the test rows.
    reconstructed : array
        The first test rows, reconstructed.
    decoded_map : array, optional
        Only for pictures and codes of length 2: pictures decoded from a square grid of codes, which
        covers the range of the test codes. Along the grid, both numbers of the code ascend; the
        first number varies fastest.
    """

    method: str
    codes: int
    error: float
    seconds: float
    parameters: int
    accuracy: dict[int, float]
    precision: dict[int, float]
    average_precision: float | None
    test_codes: NDArray[Any] = field(repr=False)
    reconstructed: NDArray[Any] = field(repr=False)
    decoded_map: NDArray[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Outliers:
    """Errors of a method on clean test rows, after fits to clean and to contaminated rows."""

    method: str
    codes: int
    clean: float
    contaminated: float


def verdict(
    trials: Sequence[Trial],
    outliers: Sequence[Outliers],
    linear: str,
    options: ReduceOptions,
    kind: str,
) -> list[str]:
    """Return sentences: the best method at each length, and the effect of outliers.

    `linear` is the name of the linear method.
    """
    lines = [_best(trials, k, linear) for k in sorted({t.codes for t in trials})]
    lines += [_robustness(one, options.outliers) for one in outliers]
    if kind == "numbers":
        scale = (
            "were standardized, so errors are in units of their standard deviations"
            if options.standardize
            else "were left in their own units"
        )
        lines.append(f"The columns {scale}.")
    return lines


def _best(trials: Sequence[Trial], k: int, linear: str) -> str:
    """The best method at code length k, and whether the linear method suffices."""
    here = sorted((t for t in trials if t.codes == k), key=lambda t: t.error)
    best, base = here[0], next(t for t in here if t.method == linear)
    given = f"With codes of length {k}"
    if best.method == linear:
        return (
            f"{given} {linear} wins, with error {base.error:.4g}; the next is the "
            f"{here[1].method} with {here[1].error:.4g}."
        )
    if best.error > 0.95 * base.error:
        return (
            f"{given} {linear} is enough: its error {base.error:.4g} is within 5 % "
            f"of the {best.method}'s {best.error:.4g}."
        )
    less = 100 * (1 - best.error / base.error)
    return (
        f"{given} the {best.method} wins: error {best.error:.4g}, {less:.0f} % below "
        f"{linear}'s {base.error:.4g}, for {best.seconds:.1f} s of training against "
        f"{base.seconds:.2f} s."
    )


def _robustness(found: Outliers, share: float) -> str:
    """The effect of outliers on the error of a method."""
    name = found.method if found.method in ("PCA", "LSA") else f"the {found.method}"
    change = (
        f"is {found.contaminated / found.clean:.2f} times as large"
        if found.clean > ZERO
        else f"rises from 0 to {found.contaminated:.4g}"
    )
    return (
        f"With codes of length {found.codes}, the error of {name} on clean rows {change} if "
        f"{100 * share:g} % of the training rows are replaced by noise."
    )
