"""Measure how the error of a model's estimates depends on the text, at each noise level.

    python benchmarks/levels.py icons64_val.parquet [--model icons] [--column caption] [--pictures
    256]

The text is the picture's own text, an empty text, or another picture's text. The error is the mean
squared error of the estimated latents, which have unit variance.
"""

import argparse
from pathlib import Path

import torch

from sfumato import image
from sfumato.data.tables import read_table
from sfumato.hub.load import load
from sfumato.types import Condition

TIMES = (50, 150, 250, 350, 450, 550, 650, 750, 850, 950, 999)


def main():
    """Print a line per noise level."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="icons")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--pictures", type=int, default=256)
    arguments = parser.parse_args()
    model, table = load(arguments.model), read_table(arguments.data)[0]
    random = torch.Generator().manual_seed(0)
    rows = table.take(
        torch.randperm(table.num_rows, generator=random)[: arguments.pictures].tolist()
    ).to_pylist()
    texts = [r[arguments.column] for r in rows]
    with torch.inference_mode():
        pixels = torch.cat(
            [image.to_tensor(image.crop_to(image.read(r["image"]), model.size)) for r in rows]
        )
        z = torch.cat([model.space.encode(part) for part in pixels.split(64)])
        own, empty = (model.text(t, model.size)[0].tokens for t in (texts, [""] * len(texts)))
        print(f"{'sigma':>8} {'own text':>9} {'no text':>9} {'another':>9}")
        for sigma in model.denoiser.times.sigmas[list(TIMES)]:
            y, found = z + sigma * torch.randn(z.shape, generator=random), []
            for tokens in (own, empty, own.roll(1, 0)):
                parts = zip(y.split(64), tokens.split(64), strict=True)
                estimate = torch.cat(
                    [model.denoiser(a, sigma.expand(len(a)), Condition(tokens=b)) for a, b in parts]
                )
                found.append(float((estimate - z).square().mean()))
            print(f"{float(sigma):8.2f} " + " ".join(f"{e:9.3f}" for e in found), flush=True)


if __name__ == "__main__":
    main()
