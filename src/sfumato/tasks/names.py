"""Find names of training pictures close in meaning to a text: "kitten" finds "cat".

A model may come with the pooled states (embeddings) that its text encoder gives for the names of
its training pictures. Names with close states mean similar things to the model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.condition.text import TextEncoder, transformers
from sfumato.condition.words import LITTLE, WORD
from sfumato.errors import ModelError
from sfumato.hub.files import read_weights
from sfumato.hub.load import Model
from sfumato.runtime import atomic
from sfumato.tasks.nearest import training_names
from sfumato.train.plan import text_encoder

STATES = Path("names") / "states.safetensors"  # in a model's folder
AT_ONCE = 256  # names encoded at a time
NEAR = 0.6  # smallest similarity of a name that is told in place of a text


@dataclass(frozen=True)
class Names:
    """The names of a model's training pictures, with a unit vector for the meaning of each.

    Attributes
    ----------
    names : list of str
        Each name once, sorted.
    states : Tensor, (N, D)
        Unit vectors.
    encoder : TextEncoder
    """

    names: list[str]
    states: Tensor
    encoder: TextEncoder

    @classmethod
    def load(cls, folder: Path, encoder: TextEncoder | None = None) -> Names:
        """Load the names and states of a model's folder, and by default its text encoder.

        Raises
        ------
        ModelError
            If the folder has no names of training pictures.
        """
        path, names = folder / STATES, _names(folder)
        if not path.exists():
            raise ModelError(f"{folder} has no names of training pictures")
        states = read_weights(path)["states"].float()
        if len(states) != len(names):
            raise ModelError(f"{path} has {len(states)} states for {len(names)} names")
        unit = torch.nn.functional.normalize(states, dim=1)
        return cls(names, unit, encoder or text_encoder(folder))

    @torch.inference_mode()
    def near(self, text: str, count: int = 6) -> list[tuple[str, float]]:
        """Return the names closest in meaning to a text, with the cosine similarity, best first.

        Examples
        --------
        >>> from sfumato.hub.catalog import BUNDLED
        >>> [name for name, _ in Names.load(BUNDLED / "icons").near("serpent", 1)]
        ['snake']
        """
        if not text.strip():
            return []
        state = torch.nn.functional.normalize(self.encoder.pooled([text]).float(), dim=1)
        best = (self.states @ state[0]).topk(min(count, len(self.names)))
        found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.names[k], round(similarity, 3)) for k, similarity in found]

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """All words of the names, in lower case."""
        return frozenset(word.lower() for name in self.names for word in WORD.findall(name))

    def in_place_of(self, text: str, count: int = 3) -> list[str] | None:
        """Return names of similar meaning if no name contains a word of the text.

        Return None if a name contains a word of the text; a word also counts if it is in a name
        with an s added or with its final s removed. The list is empty if no name is similar enough
        (`NEAR`).

        Examples
        --------
        >>> from sfumato.hub.catalog import BUNDLED
        >>> names = Names.load(BUNDLED / "icons")
        >>> names.in_place_of("serpent", 1), names.in_place_of("a snake on ice")
        (['snake'], None)
        """
        words = [w.lower() for w in WORD.findall(text) if w.lower() not in LITTLE]
        forms = {form for w in words for form in (w, w.removesuffix("s"), f"{w}s")}
        if not words or forms & self.words:
            return None
        return [name for name, similarity in self.near(text, count) if similarity >= NEAR]


def names_in_place_of(model: Model, text: str) -> list[str] | None:
    """Return :meth:`Names.in_place_of` of a model's training pictures.

    The result is None if the model has no names of training pictures. It is also None if LoRAs are
    applied, because the names of their training pictures are not known.
    """
    encoders = transformers(model.text)
    if model.loras or not encoders or not (model.path / STATES).exists():
        return None
    if "names" not in model.loaded:
        model.loaded["names"] = Names.load(model.path, encoders[0])
    names: Names = model.loaded["names"]
    return names.in_place_of(text)


@torch.inference_mode()
def write_states(folder: Path) -> None:
    """Encode the names of a model's training pictures, and store the states in 8 bits."""
    encoder, names = text_encoder(folder), _names(folder)
    parts = [encoder.pooled(names[k : k + AT_ONCE]) for k in range(0, len(names), AT_ONCE)]
    states = torch.nn.functional.normalize(torch.cat(parts).float(), dim=1)
    # the states are normalized again when they are loaded
    largest = states.abs().amax(dim=1, keepdim=True)
    stored = (127 * states / largest).round().to(torch.int8)
    (folder / STATES).parent.mkdir(exist_ok=True)
    with atomic(folder / STATES) as scratch:
        save_file({"states": stored}, scratch)


def _names(folder: Path) -> list[str]:
    return sorted({row["name"] for row in training_names(folder)})
