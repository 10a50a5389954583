"""PCA, LSA and autoencoders with scikit-learn's interface: rows (N, d) in, codes (N, k) out, numpy
both ways.

``score`` is the same for all three, so that they can be compared: the negative squared
reconstruction error of a row, summed over its values, as mean over the rows.
"""

from sfumato.estimators.autoencoder import Autoencoder as Autoencoder
from sfumato.estimators.linear import LSA as LSA
from sfumato.estimators.linear import PCA as PCA
