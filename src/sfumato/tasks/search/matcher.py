"""A model's matcher as a space to search in: pictures and words to codes of one kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.errors import ModelError
from sfumato.hub.files import digest, read_json, weight_file
from sfumato.hub.load import BUNDLED, Model, bundled, load
from sfumato.hub.save import write_json

BATCH = 256  # pictures that go through the network at once


def has_matcher(name: str) -> bool:
    """Whether this is a bundled model or the folder of one that has a matcher."""
    return any(
        (place / "matcher" / "config.json").exists() for place in (BUNDLED / name, Path(name))
    )


class Matched:
    """Rows of pixels, or words, to directions whose cosine tells how well they match.

    Parameters
    ----------
    model : Model
        With a matcher.
    """

    def __init__(self, model: Model) -> None:
        assert model.matcher is not None
        self.model, self.matcher = model, model.matcher
        self.side, self.n_components_ = model.matcher.config.size, model.matcher.config.width
        self.n_features_in_ = 3 * self.side**2

    @classmethod
    def open(cls, name: str) -> Matched:
        """The matcher of a bundled model or a model folder."""
        return cls(load(name if name in bundled() else str(Path(name).resolve()), "cpu"))

    @property
    def stamp(self) -> str:
        """Digest of the matcher's weights: codes of others cannot be compared."""
        return digest(weight_file(self.model.path / "matcher"))

    def save(self, folder: Path) -> None:
        """Write down which model it is; its weights stay where they are."""
        write_json(
            folder / "estimator.json",
            {"estimator": "Matched", "model": self.model.name, "sha256": self.stamp},
        )

    @classmethod
    def load(cls, folder: Path) -> Matched:
        """Open the model that was written down.

        Raises
        ------
        ModelError
            If its matcher has other weights now.
        """
        noted = read_json(folder / "estimator.json")
        if not has_matcher(str(noted.get("model"))):
            raise ModelError(
                f"{folder} was made with model {noted.get('model')}, which is not there or has no "
                "matcher"
            )
        out = cls.open(str(noted["model"]))
        if out.stamp != noted.get("sha256"):
            raise ModelError(
                f"{folder} was made with other weights of model {noted['model']}; index again into "
                "another --output"
            )
        return out

    @torch.inference_mode()
    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows (N, 3 side side) of pixels in [0, 1] to codes (N, width)."""
        x = torch.from_numpy(rows).unflatten(1, (3, self.side, self.side)) * 2 - 1
        return torch.cat([self.matcher.pictures(part) for part in x.split(BATCH)]).numpy()

    @torch.inference_mode()
    def words(self, text: str) -> NDArray[np.float32]:
        """The code (width,) of a text."""
        code: NDArray[np.float32] = self.matcher.texts(self.model.text.pooled([text]))[0].numpy()
        return code
