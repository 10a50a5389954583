"""Base of the estimators: input checks, transform and inverse transform, score, save and load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sfumato.errors import ModelError
from sfumato.runtime import atomic

Rows = Any  # (N, d) array or scipy.sparse matrix
FLOATS = [np.float64, np.float32]
BATCH = 4096  # rows that are encoded at once


class Reducer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the three estimators: input checks, (inverse) transform, score, save and load."""

    accepts_sparse: ClassVar[bool] = False
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = self.accepts_sparse
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "space_")

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def _check(self, X: Rows, *, reset: bool) -> Rows:  # noqa: N803 (scikit-learn's name)
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=FLOATS,
            accept_sparse="csr" if self.accepts_sparse else False,
        )

    def transform(self, X: Rows) -> NDArray[Any]:  # noqa: N803
        """Encode rows (N, d) as codes (N, k), in the precision of the rows."""
        check_is_fitted(self)
        rows = self._check(X, reset=False)
        return np.concatenate(
            [self._encode(rows[k : k + BATCH]) for k in range(0, rows.shape[0], BATCH)]
        )

    def inverse_transform(self, X: Rows) -> NDArray[Any]:  # noqa: N803
        """Decode codes (N, k) to rows (N, d)."""
        check_is_fitted(self)
        codes = np.asarray(X)
        if codes.dtype not in FLOATS:
            codes = codes.astype(np.float64)
        if codes.ndim != 2 or codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"codes of shape {codes.shape} were given; {self._n_features_out} columns are "
                "expected"
            )
        return np.concatenate(
            [self._decode(codes[k : k + BATCH]) for k in range(0, max(1, len(codes)), BATCH)]
        )

    def score(self, X: Rows, y: Any = None) -> float:  # noqa: N803
        """Return the negative squared reconstruction error; the best score is 0.

        The error is summed over the columns and averaged over the rows.
        """
        check_is_fitted(self)
        rows = self._check(X, reset=False)
        total = 0.0
        for k in range(0, rows.shape[0], BATCH):
            part = dense(rows[k : k + BATCH])
            total += float(
                np.square(self._decode(self._encode(part)) - part, dtype=np.float64).sum()
            )
        return -total / int(rows.shape[0])

    def _encode(self, rows: Rows) -> NDArray[Any]:
        raise NotImplementedError

    def _decode(self, codes: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write ``estimator.json`` and ``weights.safetensors`` to a folder, for :meth:`load`."""
        check_is_fitted(self)
        folder = Path(folder)
        params = {
            k: v for k, v in self.get_params().items() if not isinstance(v, np.random.RandomState)
        }
        names = self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None
        fitted = {
            "n_features_in_": self.n_features_in_,
            "feature_names_in_": names,
            "state": self._state(),
        }
        described = {"estimator": type(self).__name__, "params": params, "fitted": fitted}
        # `default` converts numpy scalars to Python numbers, and other sequences to lists
        text = json.dumps(
            described,
            indent=2,
            default=lambda v: v.item() if isinstance(v, np.generic) else list(v),
        )
        with atomic(folder / "weights.safetensors") as scratch:
            save_file(self._arrays(), scratch)
        with atomic(folder / "estimator.json") as scratch:
            scratch.write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an estimator that :meth:`save` wrote.

        Raises
        ------
        ModelError
            If a file is missing or truncated, or belongs to another estimator.
        """
        path = Path(folder) / "estimator.json"
        try:
            data = json.loads(path.read_text("utf-8"))
            if data["estimator"] != cls.__name__:
                raise ModelError(f"{path} is a {data['estimator']}, not a {cls.__name__}")
            out = cls(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in data["params"].items()}
            )
            out.n_features_in_ = data["fitted"]["n_features_in_"]
            if data["fitted"]["feature_names_in_"] is not None:
                out.feature_names_in_ = np.array(data["fitted"]["feature_names_in_"], dtype=object)
            out._restore(data["fitted"]["state"], load_file(Path(folder) / "weights.safetensors"))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{folder} holds no {cls.__name__} that can be read: {error}"
            ) from None
        return out

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError

    def _arrays(self) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        raise NotImplementedError


def dense(rows: Rows) -> NDArray[Any]:
    """Return rows as a dense array."""
    out: NDArray[Any] = rows.toarray() if scipy.sparse.issparse(rows) else np.asarray(rows)
    return out
