"""Measure whether the matcher knows which name belongs to a picture.

    python benchmarks/match.py icons64_val.parquet [--model icons] [--column name] [--group split]

The benchmark prints two shares for each group of pictures. The first is the share of pictures that
are nearer to their own name than to each of 99 other names. The second is the share of names that
are nearer to their own picture than to each of 99 other pictures. Both would be 1 % by chance.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from sfumato import image
from sfumato.data.tables import read_table
from sfumato.hub.load import load

OTHERS = 99


def main():
    """Print a line per group."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="icons")
    parser.add_argument("--column", default="name")
    parser.add_argument("--group", default="split")
    arguments = parser.parse_args()
    model, rows = load(arguments.model), read_table(arguments.data)[0].to_pylist()
    side = model.matcher.config.size
    names = [r[arguments.column] for r in rows]
    pictures = [image.to_tensor(image.crop_to(image.read(r["image"]), (side, side))) for r in rows]
    with torch.inference_mode():
        shown = torch.cat(
            [
                model.matcher.pictures(torch.cat(pictures[k : k + 256]))
                for k in range(0, len(rows), 256)
            ]
        )
        said = torch.cat(
            [
                model.matcher.texts(model.text.pooled(names[k : k + 256]))
                for k in range(0, len(rows), 256)
            ]
        )
    groups = {r.get(arguments.group, "all") for r in rows}
    for group in sorted(groups):
        places = [k for k, r in enumerate(rows) if r.get(arguments.group, "all") == group]
        random, found = np.random.default_rng(0), np.zeros(2)
        for k in places:
            strangers = [
                j for j in random.permutation(len(rows))[: 4 * OTHERS] if names[j] != names[k]
            ][:OTHERS]
            own = float(shown[k] @ said[k])
            found += [
                own > float((said[strangers] @ shown[k]).max()),
                own > float((shown[strangers] @ said[k]).max()),
            ]
        names_of, pictures_of = found / len(places)
        print(
            f"{group}: {len(places)} pictures; own name nearest of 100: {names_of:.3f}; own "
            f"picture nearest of 100: {pictures_of:.3f}"
        )


if __name__ == "__main__":
    main()
