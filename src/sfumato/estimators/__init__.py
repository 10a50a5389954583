"""PCA, LSA and autoencoders with scikit-learn's interface.

The estimators encode rows (N, d) as codes (N, k) and decode codes to rows, as numpy arrays.

All three estimators define ``score`` in the same way, so their scores can be compared. The score is
the negative squared reconstruction error, summed over the values of a row and averaged over the
rows.
"""

from sfumato.estimators.autoencoder import Autoencoder as Autoencoder
from sfumato.estimators.linear import LSA as LSA
from sfumato.estimators.linear import PCA as PCA
