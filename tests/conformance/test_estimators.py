"""scikit-learn's own checks over the three estimators."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sfumato import LSA, PCA, Autoencoder


@parametrize_with_checks([PCA(), LSA(), Autoencoder(1, layers=(8,), epochs=2, dtype="float32")])
def test_scikit_learn_check(estimator, check):
    check(estimator)
