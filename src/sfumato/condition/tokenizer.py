"""CLIP's tokenizer: lower case, byte-level BPE with an end-of-word mark, from ``vocab.json`` and
``merges.txt``.

The `tokenizers` library does the work. This module configures it like CLIP's tokenizer, and trains
vocabularies of this kind.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from sfumato.errors import ModelError
from sfumato.runtime import atomic, replace_surrogates

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
ORIGINAL = Path(__file__).parents[1] / "pretrained" / "clip" / "merges.txt.gz"
# Contractions, runs of letters, single digits, runs of anything else (openai/CLIP,
# simple_tokenizer.py).
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _set_up(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(BEGIN, normalized=True), AddedToken(END, normalized=False)]
    )
    return tokenizer


def _mark(token: str, *, normalized: bool = False) -> dict[str, Any]:
    """Describe a special token in transformers' format.

    If `normalized`, the token is also found in a text in capitals.
    """
    return {
        "content": token,
        "lstrip": False,
        "normalized": normalized,
        "rstrip": False,
        "single_word": False,
    }


def _read_bpe(folder: Path) -> models.BPE:
    whole = folder / "tokenizer.json"
    if (folder / "vocab.json").exists() or not whole.exists():
        files = str(folder / "vocab.json"), str(folder / "merges.txt")
        return models.BPE.from_file(*files, unk_token=END, end_of_word_suffix=SUFFIX)
    learnt = json.loads(whole.read_text("utf-8-sig"))["model"]
    return models.BPE(learnt["vocab"], _merges(learnt), unk_token=END, end_of_word_suffix=SUFFIX)


def _added(folder: Path) -> dict[int, str]:
    """Read the tokens that were added later (for example by textual inversion), keyed by id."""
    found: dict[int, str] = {}
    for name in ("added_tokens.json", "tokenizer.json"):
        if (folder / name).exists():
            held = json.loads((folder / name).read_text("utf-8-sig"))
            if name == "added_tokens.json":
                found |= {int(id_): str(token) for token, id_ in held.items()}
            else:
                found |= {int(t["id"]): str(t["content"]) for t in held.get("added_tokens", [])}
    return {id_: token for id_, token in found.items() if token not in (BEGIN, END)}


def _pad(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the padding token.

    If the config has no ``added_tokens_decoder``, special_tokens_map.json takes precedence over the
    config.
    """
    older = folder / "special_tokens_map.json"
    said = settings.get("pad_token")
    if older.exists() and "added_tokens_decoder" not in settings:
        said = json.loads(older.read_text("utf-8-sig")).get("pad_token") or said
    said = said["content"] if isinstance(said, dict) else said
    return END if said is None else str(said)


def _byte_letters() -> list[str]:
    """Return a character for each byte, in CLIP's order: printable bytes stand for themselves, the
    others get characters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _merges(learnt: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of byte-pair encoding as pairs; older files store a pair as one string."""
    return [
        (a, b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in learnt["merges"])
    ]


class CLIPTokenizer:
    """Tokenizer that returns the ids of a text, without begin and end tokens.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        As set up by :meth:`load` or :meth:`train`.
    length : int
        Number of positions of the text transformer, including begin and end.
    pad : str
        Padding token: the end token in SD 1, ``!`` (id 0) in SD 2.
    """

    def __init__(self, tokenizer: Tokenizer, length: int = 77, pad: str = END) -> None:
        self.tokenizer, self.length, self.pad_token = tokenizer, length, pad
        self.begin, self.end, self.pad = (self._id(t) for t in (BEGIN, END, pad))

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f'the tokenizer has no "{token}" token: this is not a CLIP vocabulary')
        return found

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length."""
        ids: list[int] = self.tokenizer.encode(
            replace_surrogates(text), add_special_tokens=False
        ).ids
        return ids

    def text(self, ids: Iterable[int]) -> str:
        """Decode ids to lower-case text, with one space between words."""
        joined = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return joined.replace(SUFFIX, " ").strip()

    def piece(self, id_: int) -> str:
        """Return the text of one token, followed by a hyphen if its word continues.

        Examples
        --------
        >>> tokenizer = CLIPTokenizer.original()
        >>> [tokenizer.piece(i) for i in tokenizer.encode("sfumato")]
        ['s-', 'fu-', 'mat-', 'o']
        """
        whole = str(self.tokenizer.id_to_token(id_)).endswith(SUFFIX)
        return self.text([id_]) + ("" if whole else "-")

    @classmethod
    def load(cls, folder: Path) -> CLIPTokenizer:
        """Read the vocabulary, the merges and the config.

        The vocabulary and the merges are in ``vocab.json`` and ``merges.txt``, or in transformers
        5's ``tokenizer.json``. The config, ``tokenizer_config.json``, may be missing.

        Raises
        ------
        ModelError
            If a file is missing or invalid.
        """
        try:
            model = _read_bpe(folder)
            config = folder / "tokenizer_config.json"
            settings = json.loads(config.read_text("utf-8-sig")) if config.exists() else {}
            pad = _pad(folder, settings)
            length = int(settings.get("model_max_length", 77))
            tokenizer = _set_up(model)
            for id_, token in sorted(_added(folder).items()):
                if tokenizer.token_to_id(token) is None:
                    tokenizer.add_tokens([AddedToken(token, normalized=True)])
                if tokenizer.token_to_id(token) != id_:
                    raise ModelError(
                        f"the added token {token} has id {id_}, which does not follow the other ids"
                    )
            if length < 3:
                raise ModelError(f"model_max_length is {length}")
        except Exception as error:
            raise ModelError(
                f"{folder} holds no CLIP tokenizer (vocab.json, merges.txt): {error}"
            ) from None
        return cls(tokenizer, length, pad)

    @classmethod
    def original(cls, pad: str | None = None) -> CLIPTokenizer:
        """Return a tokenizer with CLIP's own vocabulary of 49,408 tokens, which the package
        contains.

        Examples
        --------
        >>> CLIPTokenizer.original().encode("a photo of a cat")
        [320, 1125, 539, 320, 2368]
        """
        lines = gzip.decompress(ORIGINAL.read_bytes()).decode("utf-8").splitlines()
        merges = [(a, b) for a, b in (line.split(" ") for line in lines[1:])]
        alphabet = _byte_letters()
        tokens = (
            alphabet + [c + SUFFIX for c in alphabet] + ["".join(m) for m in merges] + [BEGIN, END]
        )
        model = models.BPE(
            {t: i for i, t in enumerate(tokens)}, merges, unk_token=END, end_of_word_suffix=SUFFIX
        )
        return cls(_set_up(model), 77, pad or END)

    @classmethod
    def train(cls, texts: Iterable[str], size: int, length: int = 77) -> CLIPTokenizer:
        """Learn a vocabulary of at most `size` tokens from texts; few texts give fewer tokens.

        The vocabulary has each byte twice, within a word and at the end of a word; the learned
        merges follow.

        Examples
        --------
        >>> t = CLIPTokenizer.train(["a red apple", "a red pear"] * 9, size=530)
        >>> t.text(t.encode("A red  apple"))
        'a red apple'
        """
        scratch = _set_up(models.BPE(unk_token=END, end_of_word_suffix=SUFFIX))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=size - 256 - 2,
            end_of_word_suffix=SUFFIX,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        scratch.train_from_iterator(texts, trainer)
        learnt = json.loads(scratch.to_str())["model"]
        merges = _merges(learnt)
        # CLIP's order: bytes, bytes that end a word, merges, marks
        tokens = alphabet + [c + SUFFIX for c in alphabet]
        tokens += [t for t in dict.fromkeys("".join(m) for m in merges) if t not in set(tokens)]
        vocab = {t: i for i, t in enumerate([*tokens, BEGIN, END])}
        model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=SUFFIX)
        return cls(_set_up(model), length)

    def save(self, folder: Path) -> None:
        """Write the files that :meth:`load` and transformers' ``CLIPTokenizer`` read."""
        model = json.loads(self.tokenizer.to_str())["model"]
        vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        end = _mark(END)
        marks: dict[str, Any] = {
            "bos_token": _mark(BEGIN, normalized=True),
            "eos_token": end,
            "unk_token": end,
            "pad_token": self.pad_token,
        }
        typed = {
            name: {"__type": "AddedToken", **mark} if isinstance(mark, dict) else mark
            for name, mark in marks.items()
        }
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.length,
            "do_lower_case": True,
            **typed,
        }
        added = {
            t.content: id_
            for id_, t in self.tokenizer.get_added_tokens_decoder().items()
            if t.content not in vocab
        }
        held = {
            **({"added_tokens.json": json.dumps(added, ensure_ascii=False)} if added else {}),
            "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
            "tokenizer_config.json": json.dumps(settings, indent=2),
            "special_tokens_map.json": json.dumps(marks, indent=2),
            "vocab.json": json.dumps(vocab, ensure_ascii=False),  # last: if it exists, all files do
        }
        for name, text in held.items():
            with atomic(folder / name) as scratch:
                scratch.write_text(text, "utf-8")
