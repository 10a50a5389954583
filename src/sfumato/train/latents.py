"""Captioned pictures as the later stages see them: latents, states and ends of texts, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato import image
from sfumato.condition.text import TextEncoder
from sfumato.space.kl import AutoencoderKL
from sfumato.train.data import Pictures, cached


class Latents:
    """A training set behind an autoencoder and a text encoder that stay as they are.

    Parameters
    ----------
    pictures : Pictures
        Packed pictures with captions.
    space : AutoencoderKL
    text : TextEncoder
    cache : Path
        Folder for what is computed.

    Attributes
    ----------
    texts : list of str
        All captions, and the empty text.
    choices : list of list of int
        For each picture the places of its captions in `texts`.
    weights : Tensor, (N,)
        How often each picture is drawn.
    """

    def __init__(self, pictures: Pictures, space: AutoencoderKL, text: TextEncoder, cache: Path) -> None:
        self.pictures, self.space, self.text, self.cache = pictures, space, text, cache
        self.weights = torch.from_numpy(pictures.weights)
        self.texts = sorted({"", *(c for row in pictures.captions for c in row)})
        place = {t: k for k, t in enumerate(self.texts)}
        self.choices = [[place[c] for c in row] for row in pictures.captions]

    def prepare(self, key: str, *, states: bool = True, ends: bool = True, own_scale: bool = True) -> Iterator[tuple[str, int, int]]:
        """Fill the cache, yielding (what, done, of how many). `key` names the autoencoder and text encoder.

        With `own_scale` the autoencoder's factor is set so that these latents have unit variance.
        """
        pixels, count = self.pictures.pixels, len(self.texts)
        key += str(count)
        for done in cached(self.cache / "latents.npy", key, (len(pixels), *self._encode(0, 1).shape[1:]), self._encode):
            yield "latents", done, len(pixels)
        self._latents: NDArray[np.float16] = np.load(self.cache / "latents.npy", mmap_mode="r")
        for wanted, name, make in ((states, "states", self._read), (ends, "ends", self._end)):
            if wanted:
                for done in cached(self.cache / f"{name}.npy", key, (count, *make(0, 1).shape[1:]), make):
                    yield f"text {name}", done, count
        if states:
            self._states: NDArray[np.float16] = np.load(self.cache / "states.npy", mmap_mode="r")
        if ends:
            self._ends = torch.from_numpy(np.load(self.cache / "ends.npy"))
        if own_scale:
            sample = torch.from_numpy(self._latents[:: max(1, len(self._latents) // 2000)].astype(np.float32))
            self.space.config = self.space.config.model_copy(update={"scaling_factor": 1 / float(sample.std())})

    @torch.no_grad()
    def _encode(self, start: int, end: int) -> Tensor:
        x = image.from_bytes(torch.from_numpy(np.array(self.pictures.pixels[start:end])))
        mean, _ = self.space.moments(x.to(self.space.encoder.conv_in.weight))
        return mean

    def _read(self, start: int, end: int) -> Tensor:
        tokens = self.text(self.texts[start:end], (0, 0))[0].tokens
        assert tokens is not None
        out: Tensor = tokens[:, : self.text.tokenizer.length]
        return out

    def _end(self, start: int, end: int) -> Tensor:
        return self.text.ends(self.texts[start:end])

    def draw(self, rows: Tensor, random: Generator) -> list[int]:
        """For each picture the place of one of its captions."""
        chosen = torch.rand(len(rows), generator=random)
        return [self.choices[r][int(u * len(self.choices[r]))] for r, u in zip(rows.tolist(), chosen.tolist(), strict=True)]

    def latents(self, rows: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) of pictures."""
        return torch.from_numpy(self._latents[rows.numpy()].astype(np.float32)) * self.space.config.scaling_factor

    def states(self, places: list[int]) -> Tensor:
        """States (B, T, D) of texts."""
        return torch.from_numpy(np.stack([self._states[k] for k in places]).astype(np.float32))

    def ends(self, places: list[int]) -> Tensor:
        """End states (B, D) of texts."""
        return self._ends[places].float()
