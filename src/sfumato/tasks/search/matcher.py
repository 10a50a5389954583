"""Use a model's matcher (as in CLIP) as the space of an index, for pictures and words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.errors import ModelError
from sfumato.hub.catalog import BUNDLED, bundled
from sfumato.hub.files import digest, read_json, weight_file
from sfumato.hub.load import Model, load
from sfumato.hub.save import write_json

BATCH = 256  # pictures that the network encodes at once


def has_matcher(name: str) -> bool:
    """Whether `name` is a bundled model or a model folder that has a matcher."""
    return any(
        (place / "matcher" / "config.json").exists() for place in (BUNDLED / name, Path(name))
    )


class ImageTextSpace:
    """Encodes pictures and words as codes; the cosine of two codes measures how well they match.

    Parameters
    ----------
    model : Model
        A model with a matcher.
    """

    def __init__(self, model: Model) -> None:
        assert model.matcher is not None
        self.model, self.matcher = model, model.matcher
        self.side, self.n_components_ = model.matcher.config.size, model.matcher.config.width
        self.n_features_in_ = 3 * self.side**2

    @classmethod
    def open(cls, name: str) -> ImageTextSpace:
        """Open the matcher of a bundled model or a model folder."""
        return cls(load(name if name in bundled() else str(Path(name).resolve()), "cpu"))

    @property
    def stamp(self) -> str:
        """Digest of the matcher's weights; codes from other weights are not comparable."""
        return digest(weight_file(self.model.path / "matcher"))

    def save(self, folder: Path) -> None:
        """Save the model's name and digest; the weights are not copied."""
        write_json(
            folder / "estimator.json",
            {"estimator": "ImageTextSpace", "model": self.model.name, "sha256": self.stamp},
        )

    @classmethod
    def load(cls, folder: Path) -> ImageTextSpace:
        """Open the model that :meth:`save` recorded.

        Raises
        ------
        ModelError
            If the model or its matcher is missing, or has other weights now.
        """
        noted = read_json(folder / "estimator.json")
        if not has_matcher(str(noted.get("model"))):
            raise ModelError(
                f"{folder} was fitted with the model {noted.get('model')}, which does not exist "
                "or has no matcher"
            )
        out = cls.open(str(noted["model"]))
        if out.stamp != noted.get("sha256"):
            raise ModelError(
                f"{folder} was fitted with other weights of the model {noted['model']}; index "
                "again into another --output"
            )
        return out

    @torch.inference_mode()
    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode pictures, rows (N, 3 * side * side) in [0, 1], to codes (N, width)."""
        x = torch.from_numpy(rows).unflatten(1, (3, self.side, self.side)) * 2 - 1
        return torch.cat([self.matcher.pictures(part) for part in x.split(BATCH)]).numpy()

    @torch.inference_mode()
    def words(self, text: str) -> NDArray[np.float32]:
        """Return the code of a text, a vector of shape (width,)."""
        code: NDArray[np.float32] = self.matcher.texts(self.model.text.pooled([text]))[0].numpy()
        return code
