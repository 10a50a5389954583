"""Train the text encoder: distil a sentence encoder into a small CLIP text transformer.

The student sees token ids; its projected state at the end of the text must point where the teacher's embedding of the
text points. As attention is causal, the state at a phrase's last word in a longer text is the phrase's own state, so
that word, too, carries a meaning that the teacher knows: that is what lets words beyond the captions work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.tokenizer import SUFFIX, CLIPTokenizer
from sfumato.errors import DataError

LONGEST = 16  # tokens; longer texts cost most of the time and teach least about words


@dataclass(frozen=True)
class Phrases:
    """Texts with a teacher's embeddings.

    Attributes
    ----------
    texts : list of str, N
    weights : array, (N,)
    embeddings : array, (N, E), of length 1
    """

    texts: list[str]
    weights: NDArray[np.float64]
    embeddings: NDArray[np.float16]

    @classmethod
    def read(cls, path: Path) -> Phrases:
        """Read a parquet file with the columns text, weight and embedding."""
        try:
            import pyarrow.parquet as pq

            table = pq.read_table(path, columns=["text", "weight", "embedding"]).combine_chunks()
        except ImportError:
            raise DataError('reading parquet needs pyarrow: pip install "sfumato[train]"') from None
        except Exception as error:
            raise DataError(f"{path}: a parquet file with text, weight and embedding is needed: {error}") from None
        flat = np.concatenate([c.values.to_numpy(zero_copy_only=False) for c in table["embedding"].chunks])
        embeddings = flat.reshape(table.num_rows, -1).astype(np.float16)
        return cls(table["text"].to_pylist(), table["weight"].to_numpy().astype(np.float64), embeddings)


def pad(rows: list[list[int]], tokenizer: CLIPTokenizer) -> Tensor:
    """Begin, ids, end, padding: (N, length); texts that are too long lose their end."""
    out = torch.full((len(rows), tokenizer.length), tokenizer.pad)
    for k, ids in enumerate(rows):
        kept = [tokenizer.begin, *ids[: tokenizer.length - 2], tokenizer.end]
        out[k, : len(kept)] = torch.tensor(kept)
    return out


class TextJob:
    """Cosine distance to the teacher, at the end of the text and at its last word."""

    def __init__(self, config: CLIPTextConfig, tokenizer: CLIPTokenizer, phrases: Phrases) -> None:
        self.module = CLIPText(config)
        self.tokenizer = tokenizer
        self.embeddings = torch.from_numpy(phrases.embeddings)
        rows = [e.ids for e in tokenizer.tokenizer.encode_batch(phrases.texts, add_special_tokens=False)]
        self.ids = pad(rows, tokenizer)
        short = torch.tensor([len(ids) <= LONGEST for ids in rows])
        self.weights = torch.from_numpy(phrases.weights) * short
        self._start_from_teacher(phrases)

    @torch.no_grad()
    def _start_from_teacher(self, phrases: Phrases) -> None:
        """Begin with token embeddings that the teacher gives to whole words.

        The projection becomes the principal directions of the teacher's embeddings, and the embedding of each token
        that is a phrase by itself becomes that phrase's coordinates there: a bag of words before the first step.
        """
        model, projection = self.module.text_model, self.module.text_projection
        assert projection is not None
        sample = self.embeddings[:: max(1, len(self.embeddings) // 50_000)].float()
        directions = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)[:, : projection.in_features]
        projection.weight[:, : directions.shape[1]] = directions
        place = {text: k for k, text in enumerate(phrases.texts)}
        table = model.embeddings.token_embedding.weight
        table.normal_(0, 0.02)
        for token, number in self.tokenizer.tokenizer.get_vocab().items():
            if token.endswith(SUFFIX) and (k := place.get(token.removesuffix(SUFFIX))) is not None:
                table[number, : directions.shape[1]] = self.embeddings[k].float() @ directions
        model.embeddings.position_embedding.weight.normal_(0, 0.01)

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean distance over the texts."""
        ids = self.ids[rows]
        ends = (ids == self.tokenizer.end).int().argmax(dim=1)
        ids = ids[:, : int(ends.max()) + 1]  # what stands behind the longest text is padding
        states = self.module(ids.to(self.module.text_model.final_layer_norm.weight.device))
        target = self.embeddings[rows].to(states.last).float()
        last_word = states.last[torch.arange(len(ids)), (ends - 1).clamp_min(1)]
        assert self.module.text_projection is not None
        word = self.module.text_projection(last_word)
        return _distance(states.pooled, target) + 0.5 * _distance(word, target)

    def preview(self, path: Path) -> None:
        """Nothing to look at."""


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(a.float(), b, dim=-1).mean()
