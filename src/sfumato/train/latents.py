"""Training data with captions: latents and text states, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sfumato import image
from sfumato.condition.text import TextEncoder
from sfumato.runtime import array_file, atomic
from sfumato.space.kl import AutoencoderKL
from sfumato.space.pixels import Pixels
from sfumato.train.pack import Pictures, is_array, note_of
from sfumato.types import Progress

TITLES = {"latents": "latents", "states": "text states", "ends": "pooled text states"}


def cached(
    path: Path,
    key: str,
    shape: tuple[int, ...],
    rows: Callable[[int, int], Tensor],
    batch: int = 256,
) -> Iterator[int]:
    """Fill `path` (.npy, float16) with ``rows(start, end)`` batch by batch.

    After each batch, yield how many rows are done.

    Rows that were computed with the same `key` before are kept, also after an interrupted run. A
    damaged file is computed again.
    """
    note = path.with_suffix(".json")
    known = note_of(path) if is_array(path, shape) else {}
    done = known.get("done", shape[0]) if known.get("key") == key else 0
    if done >= shape[0]:
        return
    if done:
        out = np.load(path, mmap_mode="r+")
    else:
        note.unlink(missing_ok=True)  # first: there must be no key for a wrong array
        path.unlink(missing_ok=True)  # a new file: another run may still read the old one
        path.parent.mkdir(parents=True, exist_ok=True)
        out = array_file(path, np.float16, shape)
    for start in range(done, shape[0], batch):
        end = min(start + batch, shape[0])
        out[start:end] = rows(start, end).float().cpu().numpy()
        out.flush()
        with atomic(note) as scratch:
            scratch.write_text(json.dumps({"key": key, "done": end}), "utf-8")
        yield end


class Captions:
    """A captioned training set with cached outputs of a frozen text encoder.

    Parameters
    ----------
    pictures : Pictures
        Packed pictures with captions.
    text : TextEncoder
    cache : Path
        Folder of the cached arrays.

    Attributes
    ----------
    texts : list of str
        All captions, and the empty text.
    choices : list of list of int
        For each picture, the indices of its captions in `texts`.
    weights : Tensor, (N,)
        Sampling weight of each picture.
    """

    def __init__(self, pictures: Pictures, text: TextEncoder, cache: Path) -> None:
        self.pictures, self.text, self.cache = pictures, text, cache
        self.weights = torch.from_numpy(pictures.weights)
        self.texts = sorted({"", *(c for row in pictures.captions for c in row)})
        place = {t: k for k, t in enumerate(self.texts)}
        self.choices = [[place[c] for c in row] for row in pictures.captions]
        self.tables: dict[str, NDArray[Any] | Tensor] = {"pixels": pictures.pixels}
        self.kept_on: torch.device | None = None

    def prepare(self, key: str, *, states: bool = False, ends: bool = False) -> Iterator[Progress]:
        """Fill the cache.

        The cache then holds the `states` of all texts, their pooled states (`ends`), or both. `key`
        identifies the encoders.
        """
        said = hashlib.blake2b("\0".join(self.texts).encode(), digest_size=12).hexdigest()
        for wanted, name, make in ((states, "states", self._read), (ends, "ends", self._end)):
            if wanted:
                yield from self._filled(name, f"{key} {said}", len(self.texts), make)
        for wanted, name in ((states, "states"), (ends, "ends")):
            if wanted:
                self.tables[name] = self._kept(name)

    def _filled(
        self, name: str, key: str, count: int, make: Callable[[int, int], Tensor]
    ) -> Iterator[Progress]:
        for done in cached(self.cache / f"{name}.npy", key, (count, *make(0, 1).shape[1:]), make):
            yield Progress(TITLES[name], done, count)

    def _kept(self, name: str) -> NDArray[np.float16]:
        kept: NDArray[np.float16] = np.load(self.cache / f"{name}.npy", mmap_mode="r")
        return kept

    def keep_on(self, device: torch.device, *names: str, room: int | None = None) -> None:
        """Move tables to a GPU, so that training steps copy no data to the GPU.

        Parameters
        ----------
        device : torch.device
            For a CPU without `room`, nothing is moved: the tables are read from disk.
        names : str
            Names of tables: "states", "ends", "latents" or "pixels".
        room : int, optional
            Bytes that may be used, by default half of the free memory; a table that does not fit
            stays on disk.
        """
        if room is None:
            if device.type != "cuda" or self.kept_on == device:
                return
            room = torch.cuda.mem_get_info(device)[0] // 2
        self.kept_on = device
        for name in names:
            table = self.tables[name]
            if not isinstance(table, Tensor) and table.nbytes <= room:
                self.tables[name] = torch.from_numpy(np.array(table)).to(device)
                room -= table.nbytes

    def _rows(self, name: str, rows: Sequence[int] | Tensor) -> Tensor:
        """Rows of a table, on the device where it is kept."""
        table, places = self.tables[name], torch.as_tensor(rows)
        if isinstance(table, Tensor):
            return table[places.to(table.device)]
        return torch.from_numpy(np.array(table[places.numpy()]))

    def _read(self, start: int, end: int) -> Tensor:
        tokens = self.text(self.texts[start:end], (0, 0))[0].tokens
        assert tokens is not None
        out: Tensor = tokens[:, : self.text.tokenizer.length]
        return out

    def _end(self, start: int, end: int) -> Tensor:
        return self.text.pooled(self.texts[start:end])

    def draw(self, rows: Tensor, random: Generator) -> list[int]:
        """Choose one caption per picture at random; return the indices in `texts`."""
        chosen = torch.rand(len(rows), generator=random)
        return [
            self.choices[r][int(u * len(self.choices[r]))]
            for r, u in zip(rows.tolist(), chosen.tolist(), strict=True)
        ]

    def pixels(self, rows: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1]."""
        return image.from_bytes(self._rows("pixels", rows))

    def states(self, places: Sequence[int]) -> Tensor:
        """States (B, T, D) of texts."""
        return self._rows("states", places).float()

    def pooled(self, places: list[int]) -> Tensor:
        """Pooled states (B, D) of texts, named "ends" in the cache."""
        return self._rows("ends", places).float()


class Latents(Captions):
    """A captioned training set with cached text states and latents (or pixels, in pixel space).

    Parameters
    ----------
    pictures, text, cache
        As in :class:`Captions`.
    space : AutoencoderKL or Pixels
    """

    def __init__(
        self, pictures: Pictures, space: AutoencoderKL | Pixels, text: TextEncoder, cache: Path
    ) -> None:
        super().__init__(pictures, text, cache)
        self.space = space

    def prepare(
        self, key: str, *, states: bool = False, ends: bool = False, own_scale: bool = False
    ) -> Iterator[Progress]:
        """Fill the cache; with `own_scale`, also set the autoencoder's scaling factor.

        With this factor, the latents of the training set have unit variance.
        """
        if isinstance(self.space, AutoencoderKL):
            yield from self._filled(
                "latents", f"{key} {self.pictures.digest}", len(self.pictures.pixels), self._encode
            )
            self.tables["latents"] = self._kept("latents")[: len(self.pictures.pixels)]
        yield from super().prepare(key, states=states, ends=ends)
        if own_scale and isinstance(self.space, AutoencoderKL):
            count = len(self.pictures.pixels)
            sample = self._rows("latents", range(0, count, max(1, count // 2000))).float()
            self.space.config = self.space.config.model_copy(
                update={"scaling_factor": 1 / float(sample.std())}
            )

    @torch.no_grad()
    def _encode(self, start: int, end: int) -> Tensor:
        assert isinstance(self.space, AutoencoderKL)
        mean, _ = self.space.moments(
            self.pixels(torch.arange(start, end)).to(self.space.encoder.conv_in.weight)
        )
        return mean

    def latents(self, rows: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) of pictures."""
        if isinstance(self.space, Pixels):
            return self.space.encode(self.pixels(rows))
        return self._rows("latents", rows).float() * self.space.config.scaling_factor
