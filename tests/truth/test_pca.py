"""PCA and LSA against scikit-learn and the singular value decomposition."""

import tracemalloc

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
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-5
    )
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(rows)),
        theirs.inverse_transform(theirs.transform(DIGITS)),
        atol=2e-3,
    )
    assert ours.transform(rows).dtype == dtype
    largest = np.abs(ours.components_).argmax(axis=1)
    assert (ours.components_[range(8), largest] > 0).all()


def test_a_stream_gives_the_fit_of_all():
    whole, stream = PCA(5).fit(DIGITS), PCA(5)
    for start in range(0, len(DIGITS), 100):
        stream.partial_fit(DIGITS[start : start + 100])
    np.testing.assert_allclose(stream.components_, whole.components_, atol=1e-9)
    assert stream.n_samples_seen_ == len(DIGITS)
    # the negative control
    assert np.abs(PCA(5).partial_fit(DIGITS[:100]).components_ - whole.components_).max() > 0.01


def test_numbers_far_from_zero_lose_no_digits():
    rows = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32) * [
        3,
        2,
        1,
    ] + np.float32(1000)
    rows = rows.astype(np.float32)
    exact = np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(PCA().fit(rows).explained_variance_, exact, rtol=1e-5)
    uncentered = rows.T @ rows / len(rows) - np.outer(rows.mean(0), rows.mean(0))
    # what the pilot mean is for
    assert np.abs(np.linalg.eigvalsh(uncentered)[::-1] / exact - 1).max() > 1e-3


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix])
def test_lsa_is_the_truncated_svd(kind):
    ours = LSA(6).fit(kind(DIGITS))
    values = np.linalg.svd(DIGITS, full_matrices=False)[1][:6]
    np.testing.assert_allclose(np.sqrt(ours.explained_variance_ * len(DIGITS)), values, rtol=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(ours.transform(kind(DIGITS)), axis=0), values, rtol=1e-9
    )
    assert (ours.mean_ == 0).all()


def test_wide_rows_turn_to_the_randomized_solver():
    rows = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(
        size=(3, 6000)
    )
    model = PCA(3, random_state=0).fit(rows)
    assert model.score(rows) > -1e-9
    assert not hasattr(model, "_sums")
    np.testing.assert_array_equal(model.components_, PCA(3, random_state=0).fit(rows).components_)


def test_score_is_the_squared_error_of_a_row():
    model = PCA(5).fit(DIGITS)
    error = np.square(model.inverse_transform(model.transform(DIGITS)) - DIGITS).sum(axis=1).mean()
    assert model.score(DIGITS) == pytest.approx(-error)
    assert Moments.of(DIGITS).solve(64).variances.sum() == pytest.approx(
        DIGITS.var(axis=0, ddof=1).sum()
    )


@pytest.mark.parametrize("kind", [PCA, LSA])
def test_a_sketch_keeps_the_leading_directions(kind):
    """Of rows in parts, wider than there is room for their square."""
    random = np.random.default_rng(0)
    rows = (
        random.normal(size=(90, 4)) @ random.normal(size=(4, 6000)) * 9
        + random.normal(size=(90, 6000))
        + 3
    )
    exact, model = kind(4, solver="exact").fit(rows), kind(4)
    for start in range(0, 90, 30):
        model.partial_fit(rows[start : start + 30])
    cosines = np.abs((exact.components_ * model.components_).sum(axis=1))
    assert (cosines > 0.9999).all()
    np.testing.assert_allclose(model.explained_variance_, exact.explained_variance_, rtol=1e-3)
    np.testing.assert_allclose(
        model.explained_variance_ratio_, exact.explained_variance_ratio_, rtol=1e-3
    )
    np.testing.assert_allclose(model.mean_, exact.mean_, atol=1e-9)
    whole = kind(solver="exact").fit(rows[:20])
    np.testing.assert_allclose(
        whole.inverse_transform(whole.transform(rows[:20])), rows[:20], atol=1e-9
    )


def test_wide_rows_in_parts_take_bounded_memory():
    rows = np.random.default_rng(0).normal(size=(20, 50_000)).astype(np.float32)
    tracemalloc.start()
    model = PCA(5).partial_fit(rows).partial_fit(rows + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.transform(rows).shape == (20, 5)
    assert peak < 200e6, "their square would take 20 GB"


@pytest.mark.parametrize("kind", [PCA, LSA])
def test_more_rows_after_a_randomized_fit_and_from_a_file(kind, tmp_path):
    rows = (
        np.random.default_rng(0).normal(size=(300, 3))
        @ np.random.default_rng(1).normal(size=(3, 40))
        + kind.centered
    )
    exact = kind(3).fit(rows)
    first = kind(3, solver="randomized", random_state=0).fit(rows[:200])
    first.save(tmp_path / "m")
    for model in (first, kind.load(tmp_path / "m")):
        model.partial_fit(rows[200:])
        assert model.n_samples_seen_ == 300
        np.testing.assert_allclose(
            np.abs((model.components_ * exact.components_).sum(axis=1)), 1, atol=1e-6
        )
        np.testing.assert_allclose(model.explained_variance_, exact.explained_variance_, rtol=1e-6)
