"""Choose and weight the training rows, and write several captions for each row.

Only pictures with free licenses are used. Emoji and drawings have more weight than interface icons.

Four captions of a row use other words for its name (words.py): synonyms, more specific words, more
general words, or the definition.

    python recipes/icons/prepare.py ../shared/data/icons64_train.parquet build/icons

Writes ``pictures.parquet`` (image, text = list of captions, weight, licence, author),
``augmented.parquet`` (the same with mirrored and recolored pictures, see augment.py) and
``attribution.csv``.
"""

from __future__ import annotations

import collections
import csv
import math
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from augment import augmented
from words import Words, others

FREE = ("MIT", "Apache-2.0", "CC0", "CC-BY-4.0")
INTERFACE = (
    "streamline-",
    "icon-park",
    "marketeq",
    "glyphs-poly",
    "flat-color-icons",
    "fluent-color",
    "meteocons",
)
# sets with the same prefix that are drawings, not interface icons
PICTURES = ("streamline-emojis", "streamline-stickies")


def is_free(license: str) -> bool:
    """Whether pictures with this license may be used to train weights that are shipped.

    MIT, Apache-2.0, CC0 and CC-BY pictures may be used, CC-BY-SA and GPL pictures may not.
    """
    return license.startswith(FREE) and not license.startswith("CC-BY-SA")


def is_interface(style: str) -> bool:
    """Whether a style consists of interface icons, not of emoji or drawings."""
    return style.startswith(INTERFACE) and not style.startswith(PICTURES)


def weight(style: str) -> float:
    """Return the sampling weight of a row with this style; an emoji has weight 1."""
    return 0.35 if is_interface(style) else 1.0


def captions(row: dict) -> list[str]:
    """Return the captions of a row: its caption three times, then variants.

    The variants are the name alone, with an article, and with a color, and keywords with the style.
    """
    name, phrase = row["name"], row["style_phrase"]
    article = "an" if name[:1] in "aeiou" else "a"
    texts = [row["caption"]] * 3 + [name, f"{article} {name}", f"{article} {name}, {phrase}"]
    if row["colors"]:
        texts.append(
            f"{article} {row['colors'][0]} {name}, {phrase}"
            if row["colors"][0] not in name
            else row["caption"]
        )
    words = [
        k for k in row["keywords"] or [] if re.fullmatch(r"[a-z][a-z \-]{2,}", k) and k != name
    ]
    if words:
        texts += [f"{name}, {', '.join(words[:3])}, {phrase}", f"{words[0]}, {phrase}"]
    return texts


def keywords(rows: list[dict]) -> dict[str, list[str]]:
    """Return the longest list of keywords of each name."""
    out: dict[str, list[str]] = {}
    for row in rows:
        found = [k for k in row["keywords"] or [] if k != row["name"]]
        out[row["name"]] = max(out.get(row["name"], []), found, key=len)
    return out


def reworded(row: dict, words: Words | None) -> list[str]:
    """Return four captions in other words, chosen differently for each style."""
    groups = (
        [(words.same, 3.0), (words.kinds, 2.0), (words.above, 1.5), ([words.meaning], 1.5)]
        if words
        else []
    )
    groups = [(texts, weight) for texts, weight in groups if any(texts)]
    if not groups:
        return []
    rng = random.Random(f"{row['name']} {row['style']}")
    chosen = rng.choices([texts for texts, _ in groups], [weight for _, weight in groups], k=4)
    return [f"{rng.choice(texts)}, {row['style_phrase']}" for texts in chosen]


def main(source: str, target: str) -> None:
    """Write the three files."""
    rows = [r for r in pq.read_table(source).to_pylist() if is_free(r["licence"])]
    words = others(keywords(rows))
    copies = collections.Counter(r["name"] for r in rows)
    table = pa.table(
        {
            "image": [r["image"] for r in rows],
            "text": [captions(r) + reworded(r, words.get(r["name"])) for r in rows],
            # A name that occurs in many sets is sampled often anyway: divide by the fourth root of
            # its count.
            "weight": [weight(r["style"]) / math.sqrt(math.sqrt(copies[r["name"]])) for r in rows],
            "licence": [r["licence"] for r in rows],
            "author": [r["author"] for r in rows],
            "style": [r["style"] for r in rows],
        }
    )
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "pictures.parquet")
    images, texts, weights = zip(
        *(
            made
            for row, text, often in zip(
                rows, table["text"].to_pylist(), table["weight"].to_pylist(), strict=True
            )
            for made in augmented(row, text, often, tint=not is_interface(row["style"]))
        ),
        strict=True,
    )
    pq.write_table(
        pa.table({"image": images, "text": texts, "weight": weights}), folder / "augmented.parquet"
    )
    credit = collections.Counter((r["set"], r["author"] or "", r["licence"]) for r in rows)
    with (folder / "attribution.csv").open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["set", "author", "license", "pictures"])
        out.writerows((*key, n) for key, n in sorted(credit.items()))
    print(
        f"{table.num_rows} pictures with a free license, {len(credit)} sources, {len(images)} with "
        f"mirrored and recolored copies -> {folder}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
