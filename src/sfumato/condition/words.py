"""Find prompts without known words, and replace unknown emoji by their names."""

from __future__ import annotations

import re
import unicodedata

from sfumato.condition.text import Encoder, transformers
from sfumato.condition.tokenizer import CLIPTokenizer

BYTES = 512  # number of single-byte tokens, the first ones of a CLIP vocabulary
WORD = re.compile(r"[^\W\d_]+")
MOST = 0.6  # a token with a larger share of a word's letters covers most of the word
LITTLE = frozenset("a an the of in on at to with and or for by is".split())
# pictures, symbols, two letters of a flag, and marks that follow them
EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}|[\U0001f000-\U0001faff\u2190-\u2bff\u3030\u303d\u3297\u3299]"
    "|[\u200d\ufe0f\U000e0020-\U000e007f]"
)
REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff]{2}")


def knows_no_word(encoder: Encoder, prompt: str) -> bool:
    """Return whether the encoder's vocabulary seems to have no word of a prompt.

    Short common words, such as "a" and "the", are ignored. A word counts as unknown if its tokens
    have fewer than two letters on average and no token covers most of it.
    """
    found = transformers(encoder)
    if not found or not prompt.strip():
        return False
    words = [w for w in WORD.findall(prompt) if w.lower() not in LITTLE]
    if not words:
        return WORD.search(prompt) is None and _only_bytes(found[0].tokenizer, prompt)
    return all(_is_unknown(found[0].tokenizer, word) for word in words)


def _is_unknown(tokenizer: CLIPTokenizer, word: str) -> bool:
    pieces = [tokenizer.piece(id_).removesuffix("-") for id_ in tokenizer.encode(word)]
    longest = max(len(piece) for piece in ["", *pieces] if "\ufffd" not in piece)
    return len(word) < 2 * len(pieces) and longest <= MOST * len(word)


def _only_bytes(tokenizer: CLIPTokenizer, text: str) -> bool:
    """Return whether a text is not ASCII and all its tokens are single bytes."""
    ids = tokenizer.encode(text)
    return bool(ids) and not text.isascii() and max(ids) < BYTES


def with_names(encoder: Encoder, prompt: str) -> str:
    """Replace each emoji that is unknown to the encoder with the emoji's name.

    Marks that join emoji or choose a skin tone are left out, and each flag becomes "flag".
    """
    found = transformers(encoder)
    if not found or prompt.isascii():
        return prompt
    tokenizer = found[0].tokenizer

    def name(match: re.Match[str]) -> str:
        sign = match[0]
        if not _only_bytes(tokenizer, sign):
            return sign
        return f" {emoji_name(sign)} "

    named = EMOJI.sub(name, prompt)
    return prompt if named == prompt else " ".join(named.replace(" ,", ",").split())


def emoji_name(sign: str) -> str:
    """Return the Unicode name of an emoji in lower case.

    Words such as "black" and "heavy" are dropped from the names of older symbols.

    Examples
    --------
    >>> emoji_name("\U0001f680"), emoji_name("\u2764")
    ('rocket', 'heart')
    """
    if REGIONAL.match(sign):
        return "flag"
    words = unicodedata.name(sign[0], "").lower()
    if "modifier" in words or "joiner" in words or "selector" in words:
        return ""
    if ord(sign[0]) < 0x1F000:  # "black heart suit" is not black
        words = re.sub(r"\b(black|white|heavy|medium) ", "", words)
    return words
