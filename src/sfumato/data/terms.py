"""Documents as weighted term counts, with a vocabulary that can be stored in a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

from sfumato.errors import DataError

Weighting = Literal["tf-idf", "log", "counts"]
# letters of languages that are written without spaces (Chinese, Japanese, Thai): each is a word
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# a word: such a letter, or at least two other letters or digits
WORD = rf"(?u)[{UNSPACED}]|[^\W{UNSPACED}]{{2,}}"
TERMS = 2000  # number of words, the most frequent ones (Hinton & Salakhutdinov 2006)


@dataclass(frozen=True)
class Terms:
    """A vocabulary with a weight for each word.

    Attributes
    ----------
    words : tuple of str
    weights : tuple of float
        Inverse document frequency of each word.
    weighting : {"tf-idf", "log", "counts"}
        "tf-idf": counts times `weights`, normalized to length 1; "log": log(1 + count); "counts":
        counts unchanged.

    Examples
    --------
    >>> terms = Terms.fit(["red apples and pears", "green apples", "fast cars"])
    >>> terms(["apples"]).shape == (1, len(terms.words))
    True
    """

    words: tuple[str, ...]
    weights: tuple[float, ...]
    weighting: Weighting = "tf-idf"

    @classmethod
    def fit(cls, texts: list[str], size: int = TERMS, weighting: Weighting = "tf-idf") -> Terms:
        """Learn the `size` most frequent words of texts, without English stop words.

        Raises
        ------
        DataError
            If the texts hold no words besides stop words.
        """
        counter = CountVectorizer(max_features=size, stop_words="english", token_pattern=WORD)
        try:
            counts = counter.fit_transform(texts)
        except ValueError:
            raise DataError("the documents hold no words that can be counted") from None
        weights = TfidfTransformer().fit(counts).idf_
        return cls(
            tuple(counter.get_feature_names_out().tolist()),
            tuple(float(w) for w in weights),
            weighting,
        )

    def known(self, text: str) -> float:
        """Share of a text's words that are in the vocabulary; 1 for a text without words.

        English stop words are not counted.

        Examples
        --------
        >>> Terms(("apples", "red"), (1.0, 1.0)).known("the red quasar")
        0.5
        """
        words = CountVectorizer(stop_words="english", token_pattern=WORD).build_analyzer()(text)
        held = set(self.words)
        return sum(word in held for word in words) / len(words) if words else 1.0

    def __call__(self, texts: list[str]) -> Any:
        """Return sparse rows (N, words), float32; a text without known words gives zeros."""
        counter = CountVectorizer(vocabulary=list(self.words), token_pattern=WORD)
        counts = counter.transform(texts).astype(np.float32)
        if not texts:
            return counts
        if self.weighting != "tf-idf":
            return counts.log1p() if self.weighting == "log" else counts
        return normalize(counts.multiply(np.array(self.weights)[None]).tocsr()).astype(np.float32)
