"""Find the training pictures of a model that are closest to a picture, to check for copies.

A model may come with the PCA codes of its training pictures and with their names. Pictures that
look alike have close codes. The distance between two codes is at most the distance between their
pictures.
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.errors import ModelError
from sfumato.hub.files import read_weights
from sfumato.space.pca import LinearSpace

SIDE = 32  # side of the compared pictures, in pixels
FOLDER, CODES, NAMES = "training", "codes.safetensors", "pictures.csv.gz"
COLUMNS = ("name", "set", "author", "license")


@dataclass(frozen=True)
class Neighbor:
    """A training picture near another picture.

    Attributes
    ----------
    distance : float
        Distance between the PCA codes of the two pictures. It is scaled so that it is a lower bound
        of the root mean square difference of their pixels, with values 0 to 255.
    mirrored : bool
        Whether the mirror image of the other picture is nearer; `distance` is then its distance.
    name, set, author, license : str
    """

    distance: float
    mirrored: bool
    name: str
    set: str
    author: str
    license: str


@dataclass(frozen=True)
class TrainingPictures:
    """Codes and names of a model's training pictures.

    Attributes
    ----------
    space : LinearSpace
        Encodes pictures of 32x32 pixels in [-1, 1].
    codes : array, (N, k)
    rows : list of dict
        Name, set, author and license of each picture.
    """

    space: LinearSpace
    codes: NDArray[np.float32]
    rows: list[dict[str, str]]

    @classmethod
    def load(cls, folder: Path) -> TrainingPictures:
        """Load the training pictures' codes and names from a model's folder.

        Raises
        ------
        ModelError
            If the folder has no codes of training pictures.
        """
        path = folder / FOLDER / CODES
        if not path.exists():
            raise ModelError(f"{folder} has no codes of its training pictures")
        stored = read_weights(path)
        components, scale = stored["components"].double().numpy(), stored["scale"].float().numpy()
        space = LinearSpace(stored["mean"].double().numpy(), components, scale**2, 0.0)
        return cls(space, stored["codes"].float().numpy() * scale, training_names(folder))

    def nearest(self, picture: Image.Image, count: int = 3) -> list[Neighbor]:
        """The training pictures closest to a picture or to its mirror image, nearest first."""
        found = [
            (float(distance), mirrored, k)
            for mirrored, seen in ((False, picture), (True, picture.transpose(FLIP)))
            for k, distance in enumerate(self._distances(seen))
        ]
        best: dict[int, tuple[float, bool]] = {}
        for distance, mirrored, k in sorted(found):
            best.setdefault(k, (distance, mirrored))
            if len(best) == count:
                break
        return [Neighbor(*near, *(self.rows[k][c] for c in COLUMNS)) for k, near in best.items()]

    def _distances(self, picture: Image.Image) -> NDArray[np.float32]:
        code = self.space.encode(codable(picture))[0].numpy()
        squares = np.square(self.codes - code).sum(axis=1) / self.space.mean.size
        out: NDArray[np.float32] = 127.5 * np.sqrt(squares)
        return out


def training_names(folder: Path) -> list[dict[str, str]]:
    """Name, set, author and license of a model's training pictures; empty if not listed."""
    path = folder / FOLDER / NAMES
    if not path.exists():
        return []
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


FLIP = Image.Transpose.FLIP_LEFT_RIGHT


def codable(picture: Image.Image) -> torch.Tensor:
    """Convert a picture to the space's input (1, 3, 32, 32) in [-1, 1], on a white background."""
    flat = image.flattened(picture)
    return image.to_tensor(flat.resize((SIDE, SIDE), Image.Resampling.BOX))
