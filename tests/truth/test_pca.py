"""PCA and LSA against scikit-learn and the singular value decomposition."""

import numpy as np
import pytest
import scipy.sparse
import sklearn.decomposition
from sklearn.datasets import load_digits

from sfumato import LSA, PCA
from sfumato.space.pca import Moments

DIGITS = load_digits().data


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", ["exact", "randomized"])
def test_pca_is_scikit_learns(solver, dtype):
    rows = DIGITS.astype(dtype)
    ours = PCA(8, solver=solver, random_state=0).fit(rows)
    theirs = sklearn.decomposition.PCA(8, svd_solver="full").fit(DIGITS)
    signs = np.sign((ours.components_ * theirs.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours.components_ * signs, theirs.components_, atol=1e-4)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(rows)), theirs.inverse_transform(theirs.transform(DIGITS)), atol=2e-3)
    assert ours.transform(rows).dtype == dtype
    largest = np.abs(ours.components_).argmax(axis=1)
    assert (ours.components_[range(8), largest] > 0).all()


def test_a_stream_gives_the_fit_of_all():
    whole, stream = PCA(5).fit(DIGITS), PCA(5)
    for start in range(0, len(DIGITS), 100):
        stream.partial_fit(DIGITS[start : start + 100])
    np.testing.assert_allclose(stream.components_, whole.components_, atol=1e-9)
    assert stream.n_samples_seen_ == len(DIGITS)
    assert np.abs(PCA(5).partial_fit(DIGITS[:100]).components_ - whole.components_).max() > 0.01  # the negative control


def test_rows_are_not_added_to_sums_that_are_gone(tmp_path):
    PCA(3).fit(DIGITS).save(tmp_path)
    for model in (PCA.load(tmp_path), PCA(3, solver="randomized", random_state=0).fit(DIGITS)):
        with pytest.raises(ValueError, match="fit anew"):
            model.partial_fit(DIGITS)


def test_numbers_far_from_zero_lose_no_digits():
    rows = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32) * [3, 2, 1] + np.float32(1000)
    rows = rows.astype(np.float32)
    exact = np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(PCA().fit(rows).explained_variance_, exact, rtol=1e-5)
    uncentered = rows.T @ rows / len(rows) - np.outer(rows.mean(0), rows.mean(0))
    assert np.abs(np.linalg.eigvalsh(uncentered)[::-1] / exact - 1).max() > 1e-3  # what the pilot mean is for


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix])
def test_lsa_is_the_truncated_svd(kind):
    ours = LSA(6).fit(kind(DIGITS))
    values = np.linalg.svd(DIGITS, full_matrices=False)[1][:6]
    np.testing.assert_allclose(np.sqrt(ours.explained_variance_ * len(DIGITS)), values, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(ours.transform(kind(DIGITS)), axis=0), values, rtol=1e-9)
    assert (ours.mean_ == 0).all()


def test_wide_rows_turn_to_the_randomized_solver():
    rows = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 6000))
    model = PCA(3, random_state=0).fit(rows)
    assert model.score(rows) > -1e-9
    assert not hasattr(model, "_moments")
    np.testing.assert_array_equal(model.components_, PCA(3, random_state=0).fit(rows).components_)


def test_score_is_the_squared_error_of_a_row():
    model = PCA(5).fit(DIGITS)
    error = np.square(model.inverse_transform(model.transform(DIGITS)) - DIGITS).sum(axis=1).mean()
    assert model.score(DIGITS) == pytest.approx(-error)
    assert Moments.of(DIGITS).solve(64).variances.sum() == pytest.approx(DIGITS.var(axis=0, ddof=1).sum())
