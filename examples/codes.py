"""
PCA and an autoencoder with the same code length
================================================

Both compress each digit to a few numbers. PCA is linear; the autoencoder is not, so it loses less
with the same code length. Both have scikit-learn's interface.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sfumato

digits = load_digits()
train, test, _, labels = train_test_split(
    digits.data, digits.target, test_size=0.25, random_state=0, stratify=digits.target
)
reducers = {
    "PCA": sfumato.PCA(2),
    "autoencoder": sfumato.Autoencoder(2, layers=(128, 64), epochs=80, random_state=0),
}
figure, rows = plt.subplots(2, 8, figsize=(9, 2.4), layout="constrained")
maps, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for row, ax, (name, reducer) in zip(rows, axes, reducers.items(), strict=True):
    codes = reducer.fit(train).transform(test)
    decoded = reducer.inverse_transform(codes)
    error = ((decoded - test) ** 2).sum(axis=1).mean()
    print(f"{name}: squared error per digit {error:.0f} with codes of length 2")
    for small, digit in zip(row, decoded, strict=False):
        small.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        small.axis("off")
    row[0].set_title(name, fontsize=9, loc="left")
    ax.scatter(*codes.T, c=labels, cmap="tab10", s=8)
    ax.set_title(f"codes of {name}, one color per digit")
    ax.set(xticks=[], yticks=[])
plt.show()
