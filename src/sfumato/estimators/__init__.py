"""PCA, LSA and autoencoders with scikit-learn's interface: numpy rows (N, d) to codes (N, k) and
back.

``score`` is the same for all three, so that they can be compared: the negative squared
reconstruction error, summed over the values of a row and averaged over the rows.
"""

from sfumato.estimators.autoencoder import Autoencoder as Autoencoder
from sfumato.estimators.linear import LSA as LSA
from sfumato.estimators.linear import PCA as PCA
