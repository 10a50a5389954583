"""Compare PCA with an autoencoder on patches of faces, with codes of length 30.

The experiment follows Hinton & Salakhutdinov 2006.

    python recipes/faces/run.py olivetti.npz report/faces

Training patches of 25x25 pixels are cut from the faces of three quarters of the people; test
patches are cut from the faces of the other people. Each patch is rotated and scaled at random,
because 400 pictures are few. The squared error is summed over the pixels of a patch (values of 0 to
1).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfumato import PCA, Autoencoder, image

SIDE, CODES = 25, 30


def patches(faces, count, rng):
    """Return random patches (count, 625) in [0, 1].

    The faces are rotated by up to 45 degrees and scaled by factors of 0.7 to 1.4.
    """
    out = np.empty((count, SIDE * SIDE), np.float32)
    for k in range(count):
        face = Image.fromarray(faces[rng.integers(len(faces))])
        scale, turn = rng.uniform(0.7, 1.4), rng.uniform(-45, 45)
        radius = (
            SIDE / scale * 0.5 * (abs(np.cos(np.radians(turn))) + abs(np.sin(np.radians(turn))))
        )
        x, y = rng.uniform(radius, np.array(face.size) - radius)
        cos, sin = np.cos(np.radians(turn)) / scale, np.sin(np.radians(turn)) / scale
        half = SIDE / 2
        matrix = (cos, -sin, x - cos * half + sin * half, sin, cos, y - sin * half - cos * half)
        patch = face.transform(
            (SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )
        out[k] = np.asarray(patch, np.float32).ravel() / 255
    return out


def main():
    """Fit both models, print the errors, and write figures.json and faces.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--patches", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    with np.load(arguments.data) as file:
        faces, person = file["images"], file["person"]
    rng = np.random.default_rng(0)
    train, test = (
        patches(faces[person < 30], arguments.patches, rng),
        patches(faces[person >= 30], 10_000, rng),
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures, shown = {}, [test[:16]]
    models = {
        "PCA": PCA(CODES),
        "autoencoder": Autoencoder(
            CODES,
            layers=(1000, 500, 250),
            shape=(1, SIDE, SIDE),
            epochs=arguments.epochs,
            random_state=0,
        ),
    }
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(train)
        figures[name] = {
            "test": -model.score(test),
            "train": -model.score(train[:10_000]),
            "seconds": time.perf_counter() - started,
        }
        shown.append(model.inverse_transform(model.transform(test[:16])))
        print(name, " ".join(f"{k} {v:.4g}" for k, v in figures[name].items()), flush=True)
    (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2))
    x = torch.from_numpy(np.concatenate(shown)).unflatten(1, (1, SIDE, SIDE)) * 2 - 1
    image.sheet(image.to_pictures(x), columns=16).save(arguments.output / "faces.png")


if __name__ == "__main__":
    main()
