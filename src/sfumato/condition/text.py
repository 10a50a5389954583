"""Encode prompts as a :class:`Condition`.

Brackets weight words, long prompts are encoded in chunks, and text that does not fit is reported.

``(word:1.2)`` weights a word by 1.2, ``(word)`` by 1.1 and ``[word]`` by 1 / 1.1, as in the Stable
Diffusion web UI. A backslash before a bracket makes it literal, and ``BREAK`` starts a new chunk.
If a prompt has more tokens than the text transformer has positions, it is encoded in chunks, and
the states of the chunks are concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.condition.clip import CLIPText, TextStates
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.layers import sinusoids
from sfumato.types import Condition

MAX_CHUNKS = 8
BRACKET = 1.1
SECTION = re.compile(r"\s*\bBREAK\b\s*")
PIECE = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:|\\"
)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into texts with weights.

    Examples
    --------
    >>> weighted("a (red:1.5) apple")
    [('a ', 1.0), ('red', 1.5), (' apple', 1.0)]
    >>> weighted("16:9) photo, a [red apple")
    [('16:9) photo, a ', 1.0), ('red apple', 0.909091)]
    >>> weighted(r"a ((red)) \\(x\\)")
    [('a ', 1.0), ('red', 1.21), (' (x)', 1.0)]
    """
    parts: list[list[str | float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # index of the part at each open bracket

    def close(kind: str, factor: float, text: str) -> None:
        if opened[kind]:
            for part in parts[opened[kind].pop() :]:
                part[1] = round(float(part[1]) * factor, 6)
        else:
            parts.append([text, 1.0])  # without an opening bracket, a closing bracket is literal

    for match in PIECE.finditer(prompt):
        text = match[0]
        if text in "([":
            opened[text].append(len(parts))
        elif match[1] is not None:
            close("(", float(match[1]), text)
        elif text == ")":
            close("(", BRACKET, text)
        elif text == "]":
            close("[", 1 / BRACKET, text)
        else:
            parts.append([text.removeprefix("\\") if text[0] == "\\" else text, 1.0])
    for kind, factor in (("(", BRACKET), ("[", 1 / BRACKET)):
        while opened[kind]:  # an unclosed bracket reaches to the end
            close(kind, factor, "")
    merged: list[tuple[str, float]] = []
    for text, weight in ((str(t), float(w)) for t, w in parts):
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


@dataclass(frozen=True)
class Tokens:
    """A prompt as tokens for the text transformer.

    Attributes
    ----------
    chunks : list of list of int
        Ids without begin, end and padding; each chunk has at most ``tokenizer.length - 2`` ids.
    weights : list of list of float
        One weight for each id.
    cut : str
        Text of the tokens that did not fit; empty if all tokens fit.
    """

    chunks: list[list[int]]
    weights: list[list[float]]
    cut: str


def tokenize(tokenizer: CLIPTokenizer, prompt: str, max_chunks: int = MAX_CHUNKS) -> Tokens:
    """Split a prompt into chunks of weighted tokens."""
    sections: list[list[tuple[int, float]]] = [[]]
    for text, weight in weighted(prompt):
        for k, part in enumerate(SECTION.split(text)):
            if k:
                sections.append([])
            sections[-1] += [(id_, weight) for id_ in tokenizer.encode(part)]
    room = tokenizer.length - 2
    chunks = [
        section[start : start + room]
        for section in sections
        for start in range(0, max(1, len(section)), room)
    ]
    ids = [[id_ for id_, _ in chunk] for chunk in chunks]
    weights = [[weight for _, weight in chunk] for chunk in chunks]
    return Tokens(
        ids[:max_chunks],
        weights[:max_chunks],
        tokenizer.text(chain.from_iterable(ids[max_chunks:])),
    )


class Encoder(Protocol):
    """Encodes prompts into a `Condition`; each family of models has its own encoder."""

    def __call__(
        self, prompts: Sequence[str], size: tuple[int, int]
    ) -> tuple[Condition, list[Tokens]]:
        """Encode prompts for pictures of `size` (width, height)."""
        ...

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Return the pooled state (B, P) of each text."""
        ...

    def chunks(self, prompt: str) -> int:
        """Return the number of token chunks of a prompt.

        All texts of a batch are padded to the largest number of chunks.
        """
        ...


def _ids(tokenizer: CLIPTokenizer, tokens: Tokens, chunks: int, pad: int) -> tuple[Tensor, Tensor]:
    """Return the ids and weights (chunks, length) of one prompt, padded to `chunks` chunks."""
    ids = torch.full((chunks, tokenizer.length), pad)
    weights = torch.ones(chunks, tokenizer.length)
    for k in range(chunks):
        chunk = tokens.chunks[k] if k < len(tokens.chunks) else []
        row = [tokenizer.begin, *chunk, tokenizer.end]
        ids[k, : len(row)] = torch.tensor(row)
        if chunk:
            weights[k, 1 : len(chunk) + 1] = torch.tensor(tokens.weights[k])
    return ids, weights


class TextEncoder(nn.Module):
    """One CLIP text transformer and its tokenizer.

    Parameters
    ----------
    clip : CLIPText
    tokenizer : CLIPTokenizer
    skip : int
        Number of final blocks to skip: 0 takes the last state (SD 1, and SD 2 after conversion to
        diffusers), 1 the penultimate state (SD XL).
    normed : bool
        Whether the final norm is applied to a penultimate state (not in SD XL).
    """

    def __init__(
        self, clip: CLIPText, tokenizer: CLIPTokenizer, *, skip: int = 0, normed: bool = True
    ) -> None:
        super().__init__()
        # the length is 1e30 if the tokenizer's file gives none
        tokenizer.length = min(tokenizer.length, clip.config.max_position_embeddings)
        self.clip, self.tokenizer, self.skip, self.normed = clip, tokenizer, skip, normed

    def states(self, tokens: Sequence[Tokens], chunks: int) -> tuple[Tensor, Tensor]:
        """Return the weighted text states (B, chunks * length, D) and the pooled state (B, P) of
        the first chunk.
        """
        made = [_ids(self.tokenizer, t, chunks, self.tokenizer.pad) for t in tokens]
        out = self._run(torch.cat([i for i, _ in made]))
        states = _weigh(self._pick(out), torch.cat([w for _, w in made]).to(out.last.device))
        pooled = out.pooled.unflatten(0, (len(tokens), chunks))[:, 0]
        return states.unflatten(0, (len(tokens), chunks)).flatten(1, 2), pooled

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Return the pooled state (B, P) of each text; only the first chunk of a text is used.

        Attention is causal, so the states of the padding after the text need not be computed.
        """
        tokens = [tokenize(self.tokenizer, p) for p in prompts]
        ids = torch.cat([_ids(self.tokenizer, t, 1, self.tokenizer.pad)[0] for t in tokens])
        longest = 2 + max((len(chunk) for t in tokens for chunk in t.chunks[:1]), default=0)
        return self._run(ids[:, :longest]).pooled

    @torch.no_grad()
    def _run(self, ids: Tensor) -> TextStates:
        out: TextStates = self.clip(ids.to(self.clip.text_model.final_layer_norm.weight.device))
        return out

    def chunks(self, prompt: str) -> int:
        """Return the number of token chunks of a prompt."""
        return len(tokenize(self.tokenizer, prompt).chunks)

    def _pick(self, out: TextStates) -> Tensor:
        if not self.skip:
            return out.last
        state = out.layers[-1 - self.skip]
        normed: Tensor = self.clip.text_model.final_layer_norm(state)
        return normed if self.normed else state

    def forward(
        self, prompts: Sequence[str], size: tuple[int, int]
    ) -> tuple[Condition, list[Tokens]]:
        """Encode prompts; all are padded to the number of chunks of the longest prompt."""
        tokens = [tokenize(self.tokenizer, p) for p in prompts]
        states, _ = self.states(tokens, max(len(t.chunks) for t in tokens))
        return Condition(tokens=states), tokens


def _weigh(states: Tensor, weights: Tensor) -> Tensor:
    """Scale each token's state by the token's weight, then restore the mean of the chunk.

    So weights change the emphasis, but not the overall magnitude. A mean near zero, as in an
    untrained text transformer, is not restored.
    """
    if bool((weights == 1).all()):
        return states
    scaled = states * weights.to(states)[..., None]
    before = states.float().mean(dim=(1, 2), keepdim=True)
    after = scaled.float().mean(dim=(1, 2), keepdim=True)
    least = 1e-5 * states.float().square().mean(dim=(1, 2), keepdim=True).sqrt()
    known = (before.abs() > least) & (after.abs() > least)
    return (scaled * torch.where(known, before / after, 1.0)).to(states.dtype)


class NoText(nn.Module):
    """The encoder of a model without text input; it ignores all prompts."""

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Return an empty state (B, 0)."""
        return torch.zeros(len(prompts), 0)

    def chunks(self, prompt: str) -> int:
        """Return 1 for every prompt."""
        return 1

    def forward(
        self, prompts: Sequence[str], size: tuple[int, int]
    ) -> tuple[Condition, list[Tokens]]:
        """Return an empty condition, and tokens that report every prompt as cut."""
        return Condition(), [Tokens([], [], prompt) for prompt in prompts]


class PairEncoder(nn.Module):
    """The two text transformers of SD XL, with concatenated states (Podell et al. 2023,
    arXiv:2307.01952, section 2.1).

    The condition's vector consists of the second transformer's pooled state and the embeddings of
    six numbers (original size, crop, target size).

    Parameters
    ----------
    first, second : TextEncoder
    zero_empty : bool
        Whether the states of an empty prompt are set to zero, like those of dropped captions in SD
        XL's training. Otherwise, "" is encoded like any text.
    """

    def __init__(
        self,
        first: TextEncoder,
        second: TextEncoder,
        *,
        zero_empty: bool = False,
        time_width: int = 256,
    ) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.zero_empty = zero_empty
        self.time_width = time_width

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Return the first transformer's pooled state (B, P) of each text."""
        return self.first.pooled(prompts)

    def chunks(self, prompt: str) -> int:
        """Return the larger of the two tokenizers' numbers of chunks for a prompt."""
        return max(self.first.chunks(prompt), self.second.chunks(prompt))

    def forward(
        self, prompts: Sequence[str], size: tuple[int, int]
    ) -> tuple[Condition, list[Tokens]]:
        """Encode prompts for pictures of `size` (width, height)."""
        tokens = [tokenize(self.first.tokenizer, p) for p in prompts]
        others = [tokenize(self.second.tokenizer, p) for p in prompts]
        chunks = max(len(t.chunks) for t in tokens + others)
        one, _ = self.first.states(tokens, chunks)
        two, pooled = self.second.states(others, chunks)
        said = pooled.new_tensor([0.0 if self.zero_empty and not p else 1.0 for p in prompts])[
            :, None
        ]
        sizes = pooled.new_tensor([size[1], size[0], 0, 0, size[1], size[0]])
        waves = sinusoids(sizes, self.time_width).flatten().to(pooled).expand(len(prompts), -1)
        return Condition(
            torch.cat([one, two], dim=-1) * said[..., None],
            torch.cat([pooled * said, waves], dim=-1),
        ), tokens


def transformers(encoder: Encoder) -> list[TextEncoder]:
    """Return the text transformers of an encoder: one, two or none."""
    if isinstance(encoder, PairEncoder):
        return [encoder.first, encoder.second]
    return [encoder] if isinstance(encoder, TextEncoder) else []
