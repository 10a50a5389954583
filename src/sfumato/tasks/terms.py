"""Documents as weighted term counts (tf-idf), with a vocabulary that can be kept in a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

from sfumato.errors import DataError

TERMS = 2000  # most frequent words (Hinton & Salakhutdinov 2006)


@dataclass(frozen=True)
class Terms:
    """A vocabulary and how much each of its words tells.

    Attributes
    ----------
    words : tuple of str
    weights : tuple of float
        Inverse document frequency of each word.

    Examples
    --------
    >>> terms = Terms.fit(["red apples and pears", "green apples", "fast cars"])
    >>> terms(["apples"]).shape == (1, len(terms.words))
    True
    """

    words: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def fit(cls, texts: list[str], size: int = TERMS) -> Terms:
        """Learn the `size` most frequent words of texts, English stop words left out.

        Raises
        ------
        DataError
            If there are none.
        """
        counter = CountVectorizer(max_features=size, stop_words="english")
        try:
            counts = counter.fit_transform(texts)
        except ValueError:
            raise DataError("the documents hold no words that can be counted") from None
        weights = TfidfTransformer().fit(counts).idf_
        return cls(tuple(counter.get_feature_names_out().tolist()), tuple(float(w) for w in weights))

    def __call__(self, texts: list[str]) -> Any:
        """Sparse rows (N, words), float32, of length 1; all zeros where a text has no known word."""
        counts = CountVectorizer(vocabulary=list(self.words)).transform(texts)
        return normalize(counts.multiply(np.array(self.weights)[None]).tocsr()).astype(np.float32)
