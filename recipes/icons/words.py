"""Find other words for the name of a picture in WordNet.

The words are synonyms, more specific words (kinds), more general words, and the definition.

A name is looked up as a noun. Of its senses, the sense with the teacher's embedding nearest to the
name and its keywords is used. In names of several words ("crying face"), each word is replaced by
its synonyms, and texts that are far from the name for the teacher are dropped. ``prepare.py``
writes captions with these words, so the model learns "serpent" and "limbless scaly reptile" for a
picture with the name "snake".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from teach import counts, embed, lines

# senses examined; kinds kept; a word with more kinds than this is too general
SENSES, KINDS, GENERAL = 5, 12, 40
# smallest cosine of a drawable sense, of another sense, and of a name with a replaced word
SEEN_NEAR, NEAR, LIKE = 0.15, 0.3, 0.6
RARER = 0.07  # a sense must be nearer by this cosine than a more frequent sense
# Files of things that can be drawn: animal, artifact, body, food, object, person, phenomenon,
# plant, shape, substance (lexnames(5WN)).
SEEN = frozenset({"05", "06", "08", "13", "17", "18", "19", "20", "25", "27"})
LONGEST = 8  # largest number of words of a definition
WORD = re.compile(r"[a-z][a-z \-']{2,30}")


@dataclass
class Sense:
    """A synset: words of one meaning."""

    words: list[str]
    gloss: str
    seen: bool  # whether it can be drawn
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    @property
    def meaning(self) -> str:
        """The definition's first words."""
        return " ".join(re.split(r"[;:,(]", self.gloss)[0].split()[:LONGEST])


@functools.cache
def senses(part: str) -> dict[str, Sense]:
    """All synsets of a part of speech, by their place in the file (wndb(5WN))."""
    out = {}
    for line in lines(f"data.{part}"):
        left, _, gloss = line.partition("|")
        place, file, _, count, *rest = left.split()
        size = 2 * int(count, 16)
        words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in rest[:size:2]]
        # "Canis familiaris"
        words = [w.lower() for w in words if not re.fullmatch(r"[A-Z][a-z]+ [a-z]+", w)]
        pointers = rest[size + 1 :]
        to = [(pointers[k], pointers[k + 1]) for k in range(0, 4 * int(rest[size]), 4)]
        above, below = (
            [p for kind, p in to if kind in kinds] for kinds in (("@", "@i"), ("~", "~i"))
        )
        out[place] = Sense(words, re.split(r'[;"]', gloss)[0].strip(), file in SEEN, above, below)
    return out


@functools.cache
def index(part: str) -> dict[str, list[str]]:
    """The places of each word's synsets, the most frequent first."""
    out = {}
    for line in lines(f"index.{part}"):
        word, _, _, pointers, *rest = line.split()
        places = rest[int(pointers) + 2 :]
        out[word.replace("_", " ")] = places
    return out


def meanings(word: str, part: str = "noun") -> list[Sense]:
    """Return the most frequent senses of a word, or of its singular."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in index(part):
            return [senses(part)[p] for p in index(part)[form][:SENSES]]
    return []


@dataclass
class Words:
    """Other words for a name."""

    same: list[str]
    kinds: list[str]
    above: list[str]
    meaning: str


def others(names: dict[str, list[str]]) -> dict[str, Words]:
    """Return other words for each name.

    `names` maps each name to its keywords. Names that WordNet does not know are left out.
    """
    found = {name: meanings(name) for name in names}
    simple = {name: s for name, s in found.items() if s}
    said = [", ".join([name, *names[name][:6]]) for name in simple]
    glosses = [
        ", ".join([*[w for w in s.words if w != name][:2], s.gloss])
        for name, all_ in simple.items()
        for s in all_
    ]
    vectors = embed(said + glosses).astype(np.float32)
    own, rest, start, out = vectors[: len(said)], vectors[len(said) :], 0, {}
    tagged = counts()
    for vector, (name, all_) in zip(own, simple.items(), strict=True):
        near = rest[start : start + len(all_)] @ vector
        start += len(all_)
        for seen, least in ((True, SEEN_NEAR), (False, NEAR)):
            likely = [(n, s) for n, s in zip(near.tolist(), all_, strict=True) if s.seen == seen]
            likely = [(n - RARER * k, s) for k, (n, s) in enumerate(likely) if n >= least]
            if likely:
                out[name] = _words(
                    name, max(likely, key=lambda pair: pair[0])[1], names.keys(), tagged
                )
                break
    return out | _swapped([name for name in names if name not in out and " " in name])


def _words(name: str, sense: Sense, taken: Iterable[str], tagged: dict[str, float]) -> Words:
    nouns = senses("noun")

    def clean(words: Iterable[str], *, other: bool) -> list[str]:
        kept = dict.fromkeys(
            w for w in words if WORD.fullmatch(w) and w != name and not (other and w in taken)
        )
        return list(kept)

    kinds = clean((w for p in sense.below for w in nouns[p].words), other=True)
    kinds = sorted(kinds, key=lambda w: -tagged.get(w, 0.0))[:KINDS]
    above = [nouns[p] for p in sense.above]
    above += [nouns[p] for s in above for p in s.above]
    general = clean((w for s in above if len(s.below) <= GENERAL for w in s.words), other=True)
    return Words(clean(sense.words, other=False), kinds, general, sense.meaning)


def _swapped(names: list[str]) -> dict[str, Words]:
    made = [(name, text) for name in names for text in _variants(name)]
    texts = sorted({t for pair in made for t in pair})
    place = {t: k for k, t in enumerate(texts)}
    vectors = embed(texts).astype(np.float32) if texts else np.zeros((0, 384), np.float32)
    out: dict[str, Words] = {}
    for name, text in made:
        if float(vectors[place[name]] @ vectors[place[text]]) >= LIKE:
            out.setdefault(name, Words([], [], [], "")).same.append(text)
    return out


def _variants(name: str) -> list[str]:
    """Return variants of a name with one word replaced by a synonym."""
    parts = name.split()
    out = []
    for k, word in enumerate(parts):
        swaps = {w for part in ("noun", "adj") for s in meanings(word, part)[:2] for w in s.words}
        if word.endswith("ing"):
            stem = word[:-3]
            bases = [b for b in (stem, stem + "e", stem[:-1]) if b in index("verb")]
            swaps |= {
                w.removesuffix("e") + "ing"
                for b in bases[:1]
                for s in meanings(b, "verb")[:2]
                for w in s.words
                if " " not in w
            }
        out += [
            " ".join([*parts[:k], w, *parts[k + 1 :]])
            for w in sorted(swaps)
            if w not in parts and WORD.fullmatch(w)
        ]
    return out[:30]
