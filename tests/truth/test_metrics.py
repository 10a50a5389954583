"""Metrics against the definition, by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from sfumato.metrics import knn_accuracy, mean_average_precision, neighbours, precision_at

RNG = np.random.default_rng(0)
CODES, LABELS = RNG.normal(size=(700, 5)), RNG.integers(0, 4, 700)
CODES[:, 0] += LABELS  # labels can be guessed, but not well


@pytest.mark.parametrize("k", [1, 5])
def test_knn_is_scikit_learns(k):
    train, test = slice(0, 400), slice(400, 700)
    want = KNeighborsClassifier(k).fit(CODES[train], LABELS[train]).score(CODES[test], LABELS[test])
    assert knn_accuracy(CODES[train], LABELS[train], CODES[test], LABELS[test], k) == pytest.approx(want, abs=0 if k == 1 else 0.03)


def test_neighbours_are_the_nearest():
    gaps = np.linalg.norm(CODES[:50, None] - CODES[None], axis=2)
    np.testing.assert_array_equal(neighbours(CODES, CODES[:50], 6), np.argsort(gaps, axis=1)[:, :6])
    assert (neighbours(CODES, CODES, 1, themselves=True)[:, 0] != np.arange(700)).all()


def test_precision_and_average_precision():
    unit = CODES / np.linalg.norm(CODES, axis=1, keepdims=True)
    near = unit @ unit.T
    hits, average = [], []
    for q in range(len(CODES)):
        others = np.delete(np.arange(len(CODES)), q)
        order = others[np.argsort(-near[q, others], kind="stable")]
        hits.append((LABELS[order[:7]] == LABELS[q]).mean())
        average.append(average_precision_score(LABELS[others] == LABELS[q], near[q, others]))
    assert precision_at(CODES, LABELS, [7])[7] == pytest.approx(np.mean(hits), abs=1e-6)
    assert mean_average_precision(CODES, LABELS) == pytest.approx(np.mean(average), abs=1e-4)
    assert precision_at(CODES, RNG.permutation(LABELS), [7])[7] < precision_at(CODES, LABELS, [7])[7]  # the negative control
