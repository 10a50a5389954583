"""Compare PCA with autoencoders on MNIST, after Hinton & Salakhutdinov 2006.

The codes have length 30 and 2. The recipe also measures the effect of denoising.

    python recipes/mnist/run.py DIR report/mnist # 10 minutes per network python
    recipes/mnist/run.py DIR report/mnist --minutes 60

    DIR holds the four idx files.

The squared error is summed over the pixels (values of 0 to 1) and averaged over the 10,000 test
digits.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sfumato import PCA, Autoencoder, image
from sfumato.data.rows import read
from sfumato.metrics import knn_accuracy

DEEP = {"layers": (1000, 500, 250), "shape": (1, 28, 28)}
CONV = {"kind": "conv", "layers": (32, 64, 128), "shape": (1, 28, 28)}
# Without these two options, the deep network overfits: after 20 minutes, its error is 1.90 for the
# training digits and 3.26 for the test digits.
GENERAL = {"corruption": "noise:0-64", "weight_decay": 0.1}
NOISE = 96  # standard deviation for pixels of 0 to 255


def timed(model, rows, minutes):
    """Fit for about `minutes`; the time of a first epoch sets the number of epochs."""
    started = time.perf_counter()
    type(model)(**{**model.get_params(), "epochs": 1}).fit(rows)
    epoch = time.perf_counter() - started
    model.set_params(epochs=max(1, round(60 * minutes / epoch)))
    started = time.perf_counter()
    model.fit(rows)
    return model, time.perf_counter() - started


def main():
    """Train the models, print the figures, and write figures.json and digits.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="*", default=["pca", "deep", "conv", "map", "denoise"])
    arguments = parser.parse_args()
    table = read(arguments.data)
    train, test = table.rows[~table.test], table.rows[table.test]
    labels, wanted = table.labels[~table.test], table.labels[table.test]
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures, shown = {}, [test[:16]]

    def report(name, **values):
        figures[name] = values
        print(name, " ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
        (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2))

    def judge(name, model, seconds):
        codes = model.transform(train), model.transform(test)
        shown.append(model.inverse_transform(codes[1][:16]))
        model.save(arguments.output / name)
        report(
            name,
            error=-model.score(test),
            one_nn=knn_accuracy(codes[0], labels, codes[1], wanted),
            epochs=model.epochs,
            seconds=seconds,
        )

    if "pca" in arguments.only:
        for k in (30, 2):
            started = time.perf_counter()
            model = PCA(k).fit(train)
            judge(f"pca-{k}", model, time.perf_counter() - started)
    if "deep" in arguments.only:
        judge(
            "deep-30",
            *timed(Autoencoder(30, random_state=0, **DEEP, **GENERAL), train, arguments.minutes),
        )
    if "conv" in arguments.only:
        judge(
            "conv-30",
            *timed(Autoencoder(30, random_state=0, **CONV, **GENERAL), train, arguments.minutes),
        )
    if "map" in arguments.only:
        judge("deep-2", *timed(Autoencoder(2, random_state=0, **DEEP), train, arguments.minutes))
    if "denoise" in arguments.only:
        noisy = test + np.random.default_rng(0).normal(0, NOISE / 255, test.shape).astype(
            np.float32
        )
        for name, corruption in (("plain", "none"), ("denoising", f"noise:{NOISE}")):
            model, seconds = timed(
                Autoencoder(30, random_state=0, corruption=corruption, **DEEP),
                train,
                arguments.minutes / 2,
            )
            probe = LogisticRegression(max_iter=300).fit(
                model.transform(train[:20_000]), labels[:20_000]
            )
            found = {
                kind: probe.score(model.transform(rows), wanted)
                for kind, rows in (("clean", test), ("noisy", noisy))
            }
            report(f"probe on codes, {name}", **found, seconds=seconds)
    x = torch.from_numpy(np.concatenate(shown)).unflatten(1, (1, 28, 28)) * 2 - 1
    image.sheet(image.to_pictures(x), columns=16).save(arguments.output / "digits.png")


if __name__ == "__main__":
    main()
