"""Requests of clients: the options of each command, with pictures as base64 in place of paths."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar

from annotated_types import Le
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfumato.config import Options, picture_fields
from sfumato.errors import OptionError
from sfumato.runtime import replace_surrogates
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.explain.probe import ProbeOptions
from sfumato.tasks.lessons import LessonOptions
from sfumato.tasks.points import PointsOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import SearchOptions

PICTURES = {"image"} | picture_fields(CreateOptions) | picture_fields(RestoreOptions)
MOST = 64  # pictures of one request
LARGEST = 1024  # pixels of a side of a created picture
LONGEST = 4000  # letters of a prompt
STEPS, SAMPLES = 200, 8
# limits of a comparison: rows, epochs, number of code lengths, and the largest code length
ROWS, EPOCHS, CODES, LARGEST_CODE = 5000, 100, 6, 512
WIDEST, WIDE = 4096, 8192  # units of a hidden layer, and of all hidden layers
WEIGHTS = 50_000_000  # weights of an autoencoder's first and last layer
TRAINED = 2000  # training steps of a lesson
TABLES = (".csv", ".zip", ".npz", ".npy", ".parquet", ".gz")
RESULT = 100_000_000  # pixels of a restored photo
# descriptions of options that have another meaning here than on the command line
OFFERED = "The name of a model that the server offers."
CHOSEN = "No effect: the server chooses it."


def of_server(
    options: type[Options], name: str, *, most: int | None = None, description: str = ""
) -> Any:
    """Return a copy of an option's field with the server's limit `most` and another description."""
    field = copy(options.model_fields[name])
    if most is not None:
        others = [limit for limit in field.metadata if not isinstance(limit, Le)]
        field.metadata = [*others, Le(most)]
    field.description = description or field.description
    return field


def check_text(value: Any, name: str = "") -> None:
    """Refuse lone surrogates: JSON accepts them, but no file, database or tokenizer does."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_text(part, name or str(key))
    elif isinstance(value, list):
        for part in value:
            check_text(part, name)
    elif isinstance(value, str) and not value.isascii() and replace_surrogates(value) != value:
        raise OptionError(
            f"{replace_surrogates(name)} is not valid Unicode: it has half of a surrogate pair"
        )


class Legible(BaseModel):
    """A request without lone surrogates: JSON accepts them, but no file or tokenizer does."""

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, data: Any) -> Any:
        check_text(data)
        return data


class Foreign(Legible):
    """A request in the format of another program: null means the default.

    Unknown fields are ignored, because clients send fields that have no counterpart here.
    """

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in data.items() if value is not None}


class CreateBody(Legible, CreateOptions):
    """A request for pictures from texts: the options of create, and the texts.

    ``source`` and ``mask`` are pictures in base64, with or without ``data:image/png;base64,``.
    """

    kind: ClassVar[str] = "create"

    prompt: str | list[str] = Field(
        description="What the picture shows; a list of prompts generates several pictures. "
        f"A prompt may have up to {LONGEST} letters, a request up to {MOST} pictures, including "
        "all candidates."
    )
    count: int = of_server(CreateOptions, "count", most=MOST)
    steps: int | None = of_server(CreateOptions, "steps", most=STEPS)
    size: tuple[int, int] | None = of_server(
        CreateOptions,
        "size",
        description=f'Width and height in pixels, up to {LARGEST}; also "64x64", or one number for '
        "both.",
    )
    model: str = of_server(CreateOptions, "model", description=OFFERED)
    source: str | None = of_server(
        CreateOptions, "source", description="The picture to start from, in base64."
    )
    mask: str | None = of_server(
        CreateOptions,
        "mask",
        description="A mask picture in base64: white pixels are inpainted, the others stay.",
    )
    loras: tuple[str, ...] = of_server(
        CreateOptions,
        "loras",
        description="Names of LoRAs that the server offers; NAME:0.8 applies a scale of 0.8.",
    )
    device: str = of_server(CreateOptions, "device", description=CHOSEN)
    dtype: str = of_server(CreateOptions, "dtype", description=CHOSEN)
    batch: int = of_server(CreateOptions, "batch", description=CHOSEN)
    previews: int = Field(
        0, ge=0, le=1, description="1 also sends previews of unfinished pictures."
    )


class TraceBody(CreateBody):
    """A request for pictures and a page that explains their sampler steps.

    It has the fields of `CreateBody`, and ``changes``.
    """

    kind: ClassVar[str] = "trace"

    count: int = of_server(CreateOptions, "count", most=1)
    changes: list[dict[str, str | int | float | None]] = Field(
        default_factory=list,
        max_length=5,
        description="More runs of the first prompt, each with some options changed.",
    )


class RestoreBody(Legible, RestoreOptions):
    """A request to repair a photo: the options of restore, and the photo.

    ``image``, ``fill`` and ``like`` are pictures in base64.
    """

    kind: ClassVar[str] = "restore"

    image: str = Field(description="The photo, in base64.")
    steps: int | None = of_server(RestoreOptions, "steps", most=STEPS)
    samples: int = of_server(RestoreOptions, "samples", most=SAMPLES)
    fill: str | None = of_server(
        RestoreOptions,
        "fill",
        description="A mask picture in base64; white pixels are replaced.",
    )
    like: str | None = of_server(
        RestoreOptions,
        "like",
        description="A picture in base64, from whose palette the colors are taken.",
    )
    model: str | None = of_server(RestoreOptions, "model", description=OFFERED)
    device: str = of_server(RestoreOptions, "device", description=CHOSEN)
    dtype: str = of_server(RestoreOptions, "dtype", description=CHOSEN)
    previews: int = Field(0, ge=0, le=0)


class ReduceBody(Legible, ReduceOptions):
    """A request to compare PCA with autoencoders: the options of reduce, and the data.

    ``data`` is a file in base64; the suffix of ``name`` gives the format: .csv, .zip of pictures,
    .npz, .npy, .parquet or idx .gz. Without ``data``, scikit-learn's 1,797 digits are used.
    """

    kind: ClassVar[str] = "reduce"

    data: str | None = Field(
        None, description="A file in base64; by default scikit-learn's digits."
    )
    name: str = Field("digits.npz", description="The file's name.", max_length=200)
    limit: int | None = of_server(ReduceOptions, "limit", most=ROWS)
    epochs: int | None = of_server(ReduceOptions, "epochs", most=EPOCHS)
    device: str = of_server(ReduceOptions, "device", description=CHOSEN)
    dtype: str = of_server(ReduceOptions, "dtype", description=CHOSEN)


class ProbeBody(Legible, ProbeOptions):
    """A request for experiments with a custom picture.

    The experiments encode and decode the picture, add noise and denoise it, or damage and restore
    it.

    ``image`` is a picture in base64.
    """

    kind: ClassVar[str] = "probe"

    image: str = Field(description="The picture, in base64.")
    model: str = Field("icons", description="The name of a model that the server offers.")
    prompt: str = Field("", max_length=LONGEST, description="What the picture shows.")


class SearchBody(Legible, SearchOptions):
    """A request to search an index: the options of search, and words or a picture.

    ``image`` is a picture in base64.
    """

    kind: ClassVar[str] = "search"

    index: str = Field(description="The name of an index that the server offers.")
    query: str = Field("", max_length=LONGEST, description="Words to search for.")
    image: str | None = Field(None, description="A picture in base64, in place of words.")
    k: int = Field(12, ge=1, le=MOST)


class PointsBody(Legible, PointsOptions):
    """A request to learn a distribution of points on a plane, and to sample new points."""

    kind: ClassVar[str] = "points"


class LessonBody(Legible, LessonOptions):
    """A request for one of the experiments on the studio's page *Learn*."""

    kind: ClassVar[str] = "lesson"

    steps: int = of_server(LessonOptions, "steps", most=TRAINED)


Body = (
    CreateBody
    | TraceBody
    | RestoreBody
    | ProbeBody
    | ReduceBody
    | SearchBody
    | PointsBody
    | LessonBody
)
