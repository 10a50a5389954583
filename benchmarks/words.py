"""Measure how well the text encoder knows words that no caption contains.

    python benchmarks/words.py build/icons/pictures.parquet [--text icons] [--words 1500]

The words are common words that are near the name of some picture (recipes/icons/near.py), but are
not names themselves. For each word, the text encoder and the teacher each find the nearest name of
a picture. The benchmark prints the share of words for which the encoder's nearest name is the
teacher's nearest name, and the share for which it is one of the teacher's five nearest names. The
benchmark needs the teacher, as the recipe does.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "icons"))
from near import COMMON, candidates, common
from teach import embed

from sfumato.condition.text import TextEncoder
from sfumato.train.plan import text_encoder

SHOWN = (
    "puppy serpent lorry grizzly swine pony feline automobile aubergine tiara extraterrestrial "
    "crimson"
).split()


@torch.inference_mode()
def ends(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Return the pooled state of each text."""
    return torch.cat(
        [encoder.pooled(texts[k : k + 256]).float() for k in range(0, len(texts), 256)]
    )


def nearest(encoder: TextEncoder, words: list[str], names: list[str], count: int = 1) -> Tensor:
    """Return the indices of the names nearest to each word.

    Names and words are compared by the cosine of their states, after the mean state of the names is
    subtracted.
    """
    known = ends(encoder, names)
    mean = known.mean(dim=0)
    said, known = (
        torch.nn.functional.normalize(x - mean, dim=1) for x in (ends(encoder, words), known)
    )
    return (said @ known.T).topk(count).indices


def main() -> None:
    """Measure the shares, and print examples."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--text", type=Path, default=Path("icons"))
    parser.add_argument("--words", type=int, default=1500)
    given = parser.parse_args()
    names = sorted(
        {row["text"][3] for row in pq.read_table(given.pictures, columns=["text"]).to_pylist()}
    )
    found = sorted(common().intersection(candidates()) - set(names))
    taught, known = (torch.from_numpy(embed(texts).astype(np.float32)) for texts in (found, names))
    near = taught @ known.T
    chosen = random.Random(3).sample(
        np.flatnonzero(near.amax(dim=1).numpy() >= COMMON).tolist(), given.words
    )
    encoder, five = text_encoder(given.text), near[chosen].topk(5).indices
    mine = nearest(encoder, [found[k] for k in chosen], names)
    first, among = (mine == five[:, :1]).float().mean(), (mine == five).any(dim=1).float().mean()
    print(
        f"{len(chosen)} words, {len(names)} names: share with the teacher's nearest name "
        f"{first:.3f}, with one of its five nearest {among:.3f}"
    )
    for word, places in zip(SHOWN, nearest(encoder, SHOWN, names, 3).tolist(), strict=True):
        print(f"  {word}: {', '.join(names[k] for k in places)}")


if __name__ == "__main__":
    main()
