"""Train the text encoder: distil a sentence encoder into a small CLIP text transformer.

The student gets token ids. Its projected state at the end of a text must point in the direction of
the teacher's embedding of the text. Attention is causal, so the state of a phrase's last word does
not change if more words follow. This state is therefore also trained towards the teacher's
embedding. Words of similar meaning thus get similar states, so prompts can use words that no
caption contains.

A text encoder can learn more words after a U-Net was trained with it. The U-Net is not trained
again. Training then starts from this encoder. Texts marked as kept (the captions) keep their
states. Other texts are trained towards the teacher's embeddings, through a projection that is first
fitted to the kept texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.tokenizer import SUFFIX, CLIPTokenizer
from sfumato.errors import DataError, OptionError
from sfumato.hub.files import CHECKPOINT, fingerprint
from sfumato.hub.save import save_text
from sfumato.runtime import seeded
from sfumato.train.loop import train
from sfumato.train.pack import digest_of
from sfumato.train.plan import (
    Event,
    Plan,
    checked,
    identity,
    read_plan,
    text_encoder,
)

LONGEST = 16  # tokens; longer texts take most of the time but teach little about words
PARTS = 4  # parts that a batch is split into, by length
KEEPING = 10.0  # weight of the loss on kept texts, relative to the loss on the other texts
FITTED = 20_000  # number of phrases for fitting the projection to the teacher's embeddings


@dataclass(frozen=True)
class Phrases:
    """Texts with a teacher's embeddings.

    Attributes
    ----------
    texts : list of str, N
    weights : array, (N,), sampling weight of each text
    embeddings : array, (N, E)
        The rows should have norm 1.
    kept : array, (N,), bool
        True for texts whose states must stay close to those of the start encoder.
    """

    texts: list[str]
    weights: NDArray[np.float64]
    embeddings: NDArray[np.float16]
    kept: NDArray[np.bool_]

    @property
    def digest(self) -> str:
        """Digest of the data, for the checkpoint of a run."""
        return digest_of(json.dumps(self.texts), self.weights, self.embeddings, self.kept)

    @classmethod
    def read(cls, path: Path) -> Phrases:
        """Read a parquet file with the columns text, weight, embedding and, optionally, kept."""
        try:
            import pyarrow.parquet as pq

            columns = ["text", "weight", "embedding"]
            names = pq.read_schema(path).names
            if missing := [name for name in columns if name not in names]:
                raise DataError(f"there is no column {missing[0]}")
            columns += ["kept"] * ("kept" in names)
            table = pq.read_table(path, columns=columns).combine_chunks()
        except ImportError:
            raise DataError('reading parquet needs pyarrow: pip install "sfumato[train]"') from None
        except Exception as error:
            raise DataError(
                f"{path}: a parquet file with columns text, weight, embedding is needed: {error}"
            ) from None
        if not table.num_rows or any(table[name].null_count for name in table.column_names):
            raise DataError(
                f"{path}: the table needs rows, each with a text, a weight and an embedding, none "
                "of them empty"
            )
        for name, kind in (("text", "string"), ("kept", "bool")):
            if name in table.column_names and (given := str(table[name].type)) != kind:
                raise DataError(f"{path}: the column {name} has the type {given}, not {kind}")
        try:
            weights = table["weight"].to_numpy().astype(np.float64)
            embeddings = _embeddings(table["embedding"])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: weights must be numbers, and embeddings lists of numbers: {error}"
            ) from None
        if not (np.isfinite(weights).all() and weights.min() >= 0):
            raise DataError(f"{path}: weights must be finite and at least 0")
        kept = (
            table["kept"].to_numpy()
            if "kept" in table.column_names
            else np.zeros(table.num_rows, bool)
        )
        return cls(table["text"].to_pylist(), weights, embeddings, kept)


def _embeddings(column: Any) -> NDArray[np.float16]:
    """The rows of a column of lists; ValueError if they have no common length or are not finite."""
    lengths = {len(row) for row in column}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError("all embeddings must have the same length, at least 1")
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    with np.errstate(over="ignore"):
        values = np.concatenate(parts).astype(np.float16)
    if not np.isfinite(values).all():
        raise ValueError("embeddings must be finite, and below 65,504")
    return values.reshape(len(column), -1)


def pad(rows: list[list[int]], tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids (N, length): begin, text, end, padding; texts that are too long are truncated."""
    out = torch.full((len(rows), tokenizer.length), tokenizer.pad)
    for k, ids in enumerate(rows):
        kept = [tokenizer.begin, *ids[: tokenizer.length - 2], tokenizer.end]
        out[k, : len(kept)] = torch.tensor(kept)
    return out


class TextJob:
    """Cosine distance to the teacher's embedding, at the end of each text and at its last word.

    For kept texts, the loss is the cosine distance to the start encoder's states, at every token.

    Parameters
    ----------
    config : CLIPTextConfig
        Config with a projection to the teacher's embeddings.
    tokenizer : CLIPTokenizer
    phrases : Phrases
    start : CLIPText, optional
        The encoder to start from.
    """

    def __init__(
        self,
        config: CLIPTextConfig,
        tokenizer: CLIPTokenizer,
        phrases: Phrases,
        start: CLIPText | None = None,
    ) -> None:
        self.module = CLIPText(config)
        self.tokenizer, self.start = tokenizer, start
        self.embeddings = torch.from_numpy(phrases.embeddings)
        self.kept = torch.from_numpy(phrases.kept)
        rows = [
            e.ids for e in tokenizer.tokenizer.encode_batch(phrases.texts, add_special_tokens=False)
        ]
        self.ids = pad(rows, tokenizer)
        short = torch.tensor([len(ids) <= LONGEST for ids in rows])
        self.weights = torch.from_numpy(phrases.weights) * short
        if not self.weights.any():
            raise DataError(
                f"none of the {len(rows)} texts has a weight above 0 and at most {LONGEST} tokens"
            )
        if start is None:
            self._start_from_teacher(phrases)
        else:
            self._start_from(start)

    @torch.no_grad()
    def _start_from(self, start: CLIPText) -> None:
        """Start from an encoder's weights.

        The projection is a least-squares fit from the encoder's states of the kept texts to the
        teacher's embeddings.
        """
        self.module.text_model.load_state_dict(start.text_model.state_dict())
        rows = (self.weights * self.kept if self.kept.any() else self.weights).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=Generator().manual_seed(0))[:FITTED]]
        states = torch.cat([start(self.ids[part]).pooled for part in rows.split(512)])
        assert self.module.text_projection is not None
        self.module.text_projection.weight.copy_(
            torch.linalg.lstsq(states, self.embeddings[rows].float()).solution.T
        )

    @torch.no_grad()
    def _start_from_teacher(self, phrases: Phrases) -> None:
        """Initialize token embeddings from the teacher's embeddings of whole words.

        The projection is set to the principal directions of the teacher's embeddings. If a token is
        a word that is also one of the phrases, its embedding is set to the coordinates of the
        teacher's embedding along these directions. The encoder thus starts as a bag-of-words model.
        """
        model, projection = self.module.text_model, self.module.text_projection
        assert projection is not None
        sample = self.embeddings[:: max(1, len(self.embeddings) // 50_000)].float()
        directions = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)[
            :, : projection.in_features
        ]
        projection.weight[:, : directions.shape[1]] = directions
        place = {text: k for k, text in enumerate(phrases.texts)}
        table = model.embeddings.token_embedding.weight
        table.normal_(0, 0.02)
        for token, number in self.tokenizer.tokenizer.get_vocab().items():
            if token.endswith(SUFFIX) and (k := place.get(token.removesuffix(SUFFIX))) is not None:
                table[number, : directions.shape[1]] = self.embeddings[k].float() @ directions
        model.embeddings.position_embedding.weight.normal_(0, 0.01)

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean distance over the texts; texts of similar length run together, to save padding."""
        order = rows[self._ends(self.ids[rows]).argsort(stable=True)]
        return torch.cat(
            [self.distances(part) for part in order.split(max(1, len(rows) // PARTS))]
        ).mean()

    def _ends(self, ids: Tensor) -> Tensor:
        return (ids == self.tokenizer.end).int().argmax(dim=1)

    def distances(self, rows: Tensor) -> Tensor:
        """Distance of each text to its target, (B,).

        In the result, the texts whose states should stay as they were (`kept`) come last. Their
        target is the output of the encoder that training started from.
        """
        device = self.module.text_model.final_layer_norm.weight.device
        ids, kept = self.ids[rows], self.kept[rows].to(device)
        ends = self._ends(ids)
        # all tokens after the longest text are padding
        ids = ids[:, : int(ends.max()) + 1].to(device)
        states = self.module(ids)
        target = self.embeddings[rows].to(states.last).float()
        last_word = states.last[torch.arange(len(ids)), (ends - 1).clamp_min(1)]
        assert self.module.text_projection is not None
        word = self.module.text_projection(last_word)
        taught = _distance(states.pooled, target) + 0.5 * _distance(word, target)
        if self.start is None or not kept.any():
            return taught
        with torch.no_grad():
            before = self.start.to(device)(ids[kept]).last
        there = (torch.arange(ids.shape[1]) <= ends[:, None]).to(device)[kept]
        moved = (_distance(states.last[kept], before) * there).sum(dim=1) / there.sum(dim=1)
        return torch.cat([taught[~kept], KEEPING * moved])

    def preview(self) -> None:
        """No preview: a text encoder has no pictures to show."""


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1)


def train_text(
    data: Path,
    output: Path,
    config: Path | None,
    given: Mapping[str, Any],
    start: Path | None = None,
) -> Iterator[Event]:
    """Distill a text encoder; write ``text_encoder/`` and ``tokenizer/``.

    `start` can name a text encoder (a bundled name or a folder). This encoder then learns more
    words and keeps its states of the texts marked as kept.
    """
    plan, settings = read_plan("text", data, output, config, given)
    phrases = Phrases.read(data)
    pretrained = text_encoder(start) if start else None
    if pretrained is not None and (plan.network or pretrained.clip.config.with_projection):
        raise OptionError(
            "--start needs an encoder without projection and keeps its network; leave out "
            "the key network"
        )
    length = int(plan.network.get("max_position_embeddings", 32))
    # a tokenizer without a checkpoint may come from a stopped run with other data
    resumes = (output / CHECKPOINT).exists() and (output / "tokenizer" / "vocab.json").exists()
    if pretrained is None and not resumes:
        yield f"learning {plan.vocabulary} tokens from {len(phrases.texts)} phrases"
        CLIPTokenizer.train(phrases.texts, plan.vocabulary, length).save(output / "tokenizer")
    tokenizer = pretrained.tokenizer if pretrained else CLIPTokenizer.load(output / "tokenizer")
    fresh = _text_network(plan, tokenizer, length)
    taught = {"projection_dim": phrases.embeddings.shape[1], "with_projection": True}
    known = (pretrained.clip.config if pretrained else fresh).model_copy(update=taught)
    with seeded(settings.seed):
        job = TextJob(known, tokenizer, phrases, pretrained.clip if pretrained else None)
    about = {
        "vocabulary": plan.vocabulary,
        "start": fingerprint(pretrained.clip) if pretrained else None,
    }
    yield from train(
        job,
        settings,
        output,
        identity(plan, phrases.digest, job.module.config, task="text", **about),
    )
    # the projection to the teacher's embeddings was needed in training only
    plain = CLIPText(job.module.config.model_copy(update={"with_projection": False}))
    plain.load_state_dict(
        {k: v for k, v in job.module.state_dict().items() if not k.startswith("text_projection")}
    )
    save_text(plain, tokenizer, output)


def _text_network(plan: Plan, tokenizer: CLIPTokenizer, length: int) -> CLIPTextConfig:
    """Config of a new, small text encoder with the special tokens of its tokenizer."""
    small = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "max_position_embeddings": length,
    }
    marks = {
        "bos_token_id": tokenizer.begin,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
        "vocab_size": tokenizer.end + 1,
        "architectures": ["CLIPTextModel"],
    }
    return checked(CLIPText, CLIPTextConfig, {**small, **plan.network, **marks})
