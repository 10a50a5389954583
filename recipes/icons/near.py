"""Write texts that teach a model's text transformer words with meanings near its pictures.

    python recipes/icons/near.py build/icons/pictures.parquet build/icons/near.parquet sfumato train
    text build/icons/near.parquet --start build/icons/text --output build/icons/words --config
    recipes/icons/near.json

The teacher (teach.py) embeds words and short definitions from WordNet. The texts near the name of
some picture are written, with and without styles and colors. Common words may be less near; a word
is common if it is a single token of CLIP's vocabulary. The captions are written as ``kept``: their
text states should not change, because the U-Net was trained with them.
"""

from __future__ import annotations

import gzip
import random
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from teach import COLORS, FORMS, SIZES, embed, wordnet
from words import senses

from sfumato.condition.tokenizer import SUFFIX
from sfumato.hub.catalog import BUNDLED

# smallest cosine to a name: for any text, and for a word in CLIP's vocabulary
NEAR, COMMON = 0.65, 0.45
OWN = 6  # the first captions of a picture (prepare.py) use its own name; the others use other words
BARE = 3.0  # sampling weight of a word by itself; other texts have weight 1
STYLED = 3  # number of styles for a common word; other words get one style


def common() -> set[str]:
    """Return the words that are one token in CLIP's byte pair encoding."""
    lines = gzip.decompress((BUNDLED / "clip" / "merges.txt.gz").read_bytes()).decode().splitlines()
    return {line.replace(" ", "").removesuffix(SUFFIX) for line in lines if line.endswith(SUFFIX)}


def candidates() -> list[str]:
    """Return WordNet's nouns and adjectives in lower case, and the definitions of drawable
    things.
    """
    words = {
        w
        for part in ("noun", "adj")
        for w in wordnet(part)[0]
        if re.fullmatch(r"[a-z][a-z' -]{2,24}", w) and w.count(" ") < 3
    }
    return sorted(
        words | {s.meaning for s in senses("noun").values() if s.seen and len(s.meaning) > 6}
    )


def forms(word: str, styles: list[str], rng: random.Random) -> list[str]:
    """Return texts with a word: alone, in some styles, as a request, with a color or size."""
    said = [word] + [f"{rng.choice((word, word, word, f'a {word}'))}, {style}" for style in styles]
    return (
        said
        + [
            rng.choice(FORMS).format(word),
            f"a {rng.choice(COLORS)} {word}",
            f"a {rng.choice(SIZES)} {word}",
        ][: len(styles)]
    )


def main(source: str, target: str) -> None:
    """Write the columns text, weight, embedding and kept."""
    rng, rows = random.Random(0), pq.read_table(source, columns=["text"]).to_pylist()
    names = sorted({row["text"][3] for row in rows})
    styles = sorted({row["text"][0].rsplit(", ", 1)[1] for row in rows if ", " in row["text"][0]})
    kept = sorted({text for row in rows for text in row["text"][:OWN]})
    told = {text for row in rows for text in row["text"][OWN:]}
    found = candidates()
    vectors, known = (embed(texts).astype(np.float32) for texts in (found, names))
    near = np.concatenate(
        [(vectors[k : k + 4096] @ known.T).max(axis=1) for k in range(0, len(found), 4096)]
    )
    used = common()
    chosen = {
        word: 1
        for word, n in zip(found, near, strict=True)
        if n >= NEAR and used.issuperset(re.findall(r"[a-z]+", word))
    }
    chosen |= {
        word: STYLED for word, n in zip(found, near, strict=True) if n >= COMMON and word in used
    }
    said = sorted(
        (
            told
            | {
                text
                for word, n in chosen.items()
                for text in forms(word, rng.sample(styles, n), rng)
            }
        )
        - set(kept)
    )
    print(f"{len(found)} words and definitions, {len(chosen)} of them near a name")
    texts = kept + said
    column = pa.FixedSizeListArray.from_arrays(pa.array(embed(texts).reshape(-1)), known.shape[1])
    weights = np.array([0.0] * len(kept) + [BARE if text in chosen else 1.0 for text in said])
    weights[: len(kept)] = weights.sum() / len(kept) / 4  # a fifth of each batch are kept captions
    pq.write_table(
        pa.table(
            {
                "text": texts,
                "weight": weights,
                "embedding": column,
                "kept": np.arange(len(texts)) < len(kept),
            }
        ),
        target,
    )
    print(f"{len(kept)} captions, {len(said)} phrases -> {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
