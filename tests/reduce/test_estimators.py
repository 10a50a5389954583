"""The estimators as a data scientist uses them: pipelines, files, seeds, sparse rows, corruptions,
wrong input.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.numpy import load_file, save_file
from sklearn import decomposition
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sfumato import LSA, PCA, Autoencoder
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.errors import ModelError, OptionError

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS.astype(np.float32)


CONV = {"kind": "conv", "layers": (8, 16), "shape": (1, 8, 8)}


def small(**changes):
    return Autoencoder(
        **{"n_components": 6, "layers": (64,), "epochs": 15, "random_state": 0, **changes}
    )


def error(model):
    return -model.score(DIGITS)


@pytest.fixture(scope="module")
def plain():
    return small().fit(DIGITS)


@pytest.mark.slow
def test_an_autoencoder_beats_pca_at_equal_length():
    model = small(n_components=2, layers=(256, 64), epochs=30).fit(DIGITS)
    assert error(model) < 0.9 * error(PCA(2).fit(DIGITS))


def test_training_helps(plain):
    assert error(plain) < 0.7 * error(small(epochs=1).fit(DIGITS))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "cross_entropy"},
        CONV,
        {"corruption": "noise:20"},
        pytest.param(
            {**CONV, "corruption": "mask:0.1", "loss": "cross_entropy"}, marks=pytest.mark.slow
        ),
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_every_kind_learns(changes):
    assert error(small(**changes).fit(DIGITS)) < 0.75 * DIGITS.var(axis=0).sum()


@pytest.mark.slow
def test_denoising_removes_noise():
    noisy = DIGITS + np.random.default_rng(0).normal(0, 4, DIGITS.shape).astype(np.float32)
    # 64 of 255 is 4 of the range 0 to 16
    trained = small(corruption="noise:64", epochs=40).fit(DIGITS)

    def left(model):
        return (
            np.square(model.inverse_transform(model.transform(noisy)) - DIGITS).sum(axis=1).mean()
        )

    assert left(trained) < left(small(epochs=40).fit(DIGITS))
    assert left(trained) < 0.7 * np.square(noisy - DIGITS).sum(axis=1).mean()


@pytest.mark.slow
def test_what_was_shrunk_is_enlarged():
    x = torch.from_numpy(DIGITS).reshape(-1, 1, 8, 8)
    rows = interpolate(Downscale(2).apply(x), (8, 8)).flatten(1).numpy()
    plain, trained = (
        small(**CONV, corruption=corruption, epochs=40).fit(DIGITS)
        for corruption in ("none", "down:2")
    )
    lost = [
        np.square(model.inverse_transform(model.transform(rows)) - DIGITS).sum(axis=1).mean()
        for model in (plain, trained)
    ]
    assert lost[1] < lost[0]


def test_the_seed_fixes_the_result():
    one, two, other = (
        small(epochs=2, random_state=k).fit(DIGITS).transform(DIGITS) for k in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0.1


def test_float64_rows_give_float64_codes(plain):
    codes = plain.transform(DIGITS.astype(np.float64))
    assert codes.dtype == np.float64
    np.testing.assert_allclose(codes, plain.transform(DIGITS), atol=1e-4)


def test_warm_start_goes_on():
    model = small(epochs=3, warm_start=True).fit(DIGITS)
    before, steps = error(model), model.n_steps_
    assert error(model.fit(DIGITS)) < before
    assert model.n_steps_ == 2 * steps
    assert small(epochs=3).fit(DIGITS).fit(DIGITS).n_steps_ == steps
    with pytest.raises(ValueError, match="64 features"):
        model.fit(DIGITS[:, :9])


def test_partial_fit_goes_on():
    model = small()
    for _ in range(8):
        model.partial_fit(DIGITS)
    assert error(model) < 0.6 * DIGITS.var(axis=0).sum()


def test_sparse_rows_are_the_same_as_dense_ones():
    dense, sparse = (
        small(epochs=2).fit(rows) for rows in (DIGITS, scipy.sparse.csr_matrix(DIGITS))
    )
    np.testing.assert_allclose(
        dense.transform(DIGITS), sparse.transform(scipy.sparse.csr_matrix(DIGITS)), atol=1e-5
    )


def test_values_whose_squares_overflow_are_refused():
    rows = np.random.default_rng(0).normal(size=(20, 4)) * 1e30
    with pytest.raises(ValueError, match="too large for float32"):
        PCA(2).fit(rows.astype(np.float32))
    assert PCA(2).fit(rows).explained_variance_[0] > 1e59


def test_pipeline_and_grid_search():
    search = GridSearchCV(
        make_pipeline(PCA(), LogisticRegression(max_iter=200)), {"pca__n_components": [2, 12]}, cv=2
    )
    assert search.fit(DIGITS[:600] / 16, LABELS[:600]).best_params_ == {"pca__n_components": 12}
    assert (
        make_pipeline(small(epochs=5), LogisticRegression(max_iter=200))
        .fit(DIGITS, LABELS)
        .score(DIGITS, LABELS)
        > 0.5
    )


def test_names_of_codes(plain):
    pandas = pytest.importorskip("pandas")
    assert PCA(2).fit(DIGITS).get_feature_names_out().tolist() == ["pca0", "pca1"]
    frame = (
        PCA(2)
        .set_output(transform="pandas")
        .fit_transform(pandas.DataFrame(DIGITS, columns=[f"p{k}" for k in range(64)]))
    )
    assert list(frame.columns) == ["pca0", "pca1"]
    assert plain.get_feature_names_out()[0] == "autoencoder0"


@pytest.mark.parametrize(
    "model",
    [
        PCA(np.int64(3)),
        LSA(3),
        PCA(3, solver="randomized", random_state=0),
        small(epochs=1),
        small(epochs=1, **CONV),
    ],
    ids=lambda m: type(m).__name__,
)
def test_files_bring_the_model_back(model, tmp_path):
    model.fit(DIGITS).save(tmp_path / "m")
    again = type(model).load(tmp_path / "m")
    np.testing.assert_array_equal(again.transform(DIGITS), model.transform(DIGITS))
    assert again.get_params() == model.get_params()
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"estimator.json", "weights.safetensors"}
    other = LSA if isinstance(model, PCA) else PCA
    with pytest.raises(ModelError, match="not a"):
        other.load(tmp_path / "m")
    whole = (tmp_path / "m/weights.safetensors").read_bytes()
    (tmp_path / "m/weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="can be read"):
        type(model).load(tmp_path / "m")


def test_a_file_with_an_unknown_key_is_refused(plain, tmp_path):
    plain.save(tmp_path)
    data = json.loads((tmp_path / "estimator.json").read_text())
    data["fitted"]["state"]["config"]["dropout"] = 0.5
    (tmp_path / "estimator.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="dropout"):
        Autoencoder.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PCA(65), "between 1 and min"),
        (PCA(solver="magic"), "solver"),
        (small(shape=(1, 7, 7)), "49 values"),
        (small(epochs=0), "epochs"),
        (small(kind="round"), "kind"),
        (small(corruption="nosie:3"), 'did you mean "noise"'),
    ],
    ids=str,
)
def test_wrong_parameters(model, message):
    with pytest.raises((ValueError, OptionError), match=message):
        model.fit(DIGITS)


def test_wrong_rows(plain):
    with pytest.raises(ValueError, match="NaN"):
        PCA().fit(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="64 features"):
        plain.transform(DIGITS[:, :9])
    with pytest.raises(ValueError, match="6 columns are expected"):
        plain.inverse_transform(np.zeros((3, 5)))


@pytest.mark.parametrize("kind", ["deep", "conv"])
def test_codes_have_mean_zero(kind):
    rows = np.random.default_rng(0).random((200, 64), np.float32)
    layers = {"deep": (32,), "conv": (8,)}[kind]
    model = Autoencoder(3, kind=kind, layers=layers, shape=(1, 8, 8), epochs=3, random_state=0).fit(
        rows
    )
    codes = model.transform(rows)
    assert np.abs(codes.mean(axis=0)).max() < 1e-4 * codes.std()
    space = model.space_
    x = model._framed(rows[:9])
    y = space(x.unflatten(1, (1, 8, 8)), None, None)
    space.recenter(torch.randn(50, 1, 8, 8))
    torch.testing.assert_close(space(x.unflatten(1, (1, 8, 8)), None, None), y, atol=1e-4, rtol=0)


def test_rows_that_are_all_alike():
    model = Autoencoder(1, layers=(4,), epochs=1, random_state=0).fit(
        np.full((20, 4), 2e4, np.float32)
    )
    assert np.isfinite(model.transform(np.full((2, 4), 2e4, np.float32))).all()


@pytest.mark.parametrize("estimator", [PCA(12), LSA(12), PCA(12, solver="randomized")])
def test_fewer_rows_than_codes(estimator):
    with pytest.raises(
        ValueError, match=r"n_components=12 must be between 1 and min\(n_samples, n_features\)=10"
    ):
        estimator.fit(np.random.default_rng(0).random((10, 100)))


def test_a_model_of_another_machine_is_read_here(tmp_path):
    model = Autoencoder(1, layers=(4,), epochs=1, random_state=0).fit(
        np.random.default_rng(0).random((20, 4))
    )
    model.device = "cuda"  # as if fitted there
    model.save(tmp_path)
    if not torch.cuda.is_available():
        assert next(Autoencoder.load(tmp_path).space_.parameters()).device.type == "cpu"


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8.0), (-1, -8, 8)])
def test_a_shape_that_is_none(shape):
    with pytest.raises(ValueError, match=r"is not \(channels, height, width\)"):
        Autoencoder(1, shape=shape, epochs=1).fit(np.zeros((20, 64), np.float32))


def test_codes_of_values_far_from_zero_keep_their_digits():
    """As of a barometer in Pa: small differences of large numbers."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 200)) + 0.01 * rng.normal(
        size=(500, 200)
    )
    rows = (1e5 + small).astype(np.float32)
    model = PCA(2).fit(rows)
    exact = (rows.astype(np.float64) - model.mean_) @ model.components_.T
    assert np.abs(model.transform(rows) - exact).max() < 0.01
    assert -model.score(rows) == pytest.approx(
        np.square(rows - model.mean_ - exact @ model.components_).sum(axis=1).mean(), rel=0.1
    )


def test_first_rows_that_are_unlike_the_rest_do_not_spoil_the_variances():
    rows = np.concatenate(
        [
            np.random.default_rng(1).normal(size=(4096, 3)),
            1e4 + np.random.default_rng(0).normal(size=(20_000, 3)),
        ]
    ).astype(np.float32)
    expected = np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(PCA(3).fit(rows).explained_variance_, expected, rtol=1e-3)


def test_being_used_changes_no_estimator():
    """Threads that share a fitted model, with rows of either precision."""
    rows = np.random.default_rng(0).normal(size=(200, 16))
    model = Autoencoder(3, layers=(16,), epochs=2, random_state=0).fit(rows)
    given = [rows, rows.astype(np.float32)] * 20
    alone = [model.transform(r) for r in given[:2]]
    with ThreadPoolExecutor(4) as pool:
        for k, codes in enumerate(pool.map(model.transform, given)):
            assert codes.dtype == given[k].dtype
            assert np.allclose(codes, alone[k % 2], atol=1e-6)
    assert model.space_.center.dtype == torch.float32


def test_fits_in_threads_are_those_of_their_seed():
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def fitted(_):
        return Autoencoder(2, layers=(16,), epochs=1, random_state=0).fit(rows).transform(rows)

    alone = fitted(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.abs(codes - alone).max() < 1e-3 for codes in pool.map(fitted, range(12)))


@pytest.mark.parametrize(
    "changed", [{"n_components": 3}, {"layers": (8,)}, {"loss": "cross_entropy"}]
)
def test_a_warm_start_of_another_network_is_refused(changed):
    rows = np.random.default_rng(0).random((40, 6))
    model = Autoencoder(2, layers=(16,), epochs=1, warm_start=True, random_state=0).fit(rows)
    steps = model.n_steps_
    assert model.fit(rows).n_steps_ == 2 * steps
    with pytest.raises(ValueError, match="warm_start continues the trained network"):
        model.set_params(**changed).fit(rows)
    again = model.set_params(warm_start=False).fit(rows)
    assert again.transform(rows).shape == (40, changed.get("n_components", 2))


@pytest.mark.parametrize("layers", [(0,), (-3,), (16.5,), ("a",)])
def test_layers_are_whole_numbers(layers):
    with pytest.raises(ValueError, match="whole numbers of at least 1"):
        Autoencoder(2, layers=layers).fit(np.random.default_rng(0).random((40, 6)))


@pytest.mark.parametrize("rows", [20, 1797], ids=["few", "all"])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_a_share_of_the_variance_as_in_scikit_learn(rows, share, tmp_path):
    data = load_digits().data[:rows]
    ours, theirs = PCA(share).fit(data), decomposition.PCA(share, svd_solver="full").fit(data)
    assert ours.n_components_ == theirs.n_components_
    assert ours.explained_variance_ratio_.sum() > share
    np.testing.assert_allclose(ours.singular_values_, theirs.singular_values_, rtol=1e-9)
    ours.save(tmp_path / "pca")
    assert PCA.load(tmp_path / "pca").transform(data[:3]).shape == (3, ours.n_components_)
    parts = PCA(share).partial_fit(data[: rows // 2]).partial_fit(data[rows // 2 :])
    assert parts.n_components_ == ours.n_components_


def test_a_share_needs_all_directions():
    with pytest.raises(ValueError, match="share of the variance, which the randomized solver"):
        PCA(0.5, solver="randomized").fit(np.eye(5))


@pytest.mark.parametrize("start", [3, 0.5])
def test_parameters_set_after_the_fit_do_not_change_it(start):
    model = PCA(start).fit(DIGITS)
    codes = model.transform(DIGITS)
    for later in (2, 20, 0.9, None):
        model.set_params(n_components=later)
        assert np.array_equal(model.transform(DIGITS), codes)
    assert PCA(3).fit(DIGITS).set_params(n_components=2).partial_fit(DIGITS).n_components_ == 2


def test_partial_fit_does_not_continue_another_network():
    model = Autoencoder(2, layers=(8,), epochs=1).fit(DIGITS)
    with pytest.raises(ValueError, match="partial_fit continues the trained network"):
        model.set_params(n_components=3).partial_fit(DIGITS)


def test_a_convolutional_autoencoder_needs_layers():
    with pytest.raises(ValueError, match="layers is empty"):
        Autoencoder(2, kind="conv", layers=(), shape=(1, 8, 8)).fit(DIGITS)


def test_arrays_of_another_width_are_refused(tmp_path):
    PCA(2).fit(DIGITS).save(tmp_path)
    arrays = load_file(tmp_path / "weights.safetensors")
    save_file({**arrays, "mean": arrays["mean"][:5]}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="do not fit 64 columns"):
        PCA.load(tmp_path)


def test_a_first_batch_of_equal_rows_gives_no_range():
    model = Autoencoder(2, layers=(8,), epochs=1, random_state=0)
    model.partial_fit(np.zeros((16, 64), np.float32))
    for _ in range(3):
        model.partial_fit(DIGITS)
    assert np.isfinite(model.transform(DIGITS)).all()
    assert model.range_ == (0.0, 16.0)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(DIGITS[:, :9])
