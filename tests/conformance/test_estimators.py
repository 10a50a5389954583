"""scikit-learn's own checks over the three estimators."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sfumato import LSA, PCA, Autoencoder

SOLVERS = [kind(solver=solver) for kind in (PCA, LSA) for solver in ("auto", "exact", "randomized")]


@parametrize_with_checks([*SOLVERS, Autoencoder(1, layers=(8,), epochs=2, dtype="float32")])
def test_scikit_learn_check(estimator, check):
    check(estimator)
