"""The options of `reduce`: one class shared by library, command line and server."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator

from sfumato.config import DEVICES, Options, option
from sfumato.errors import OptionError

DATA, AUTOENCODERS, COMPUTING = "Data", "Autoencoders", "Computing"


class ReduceOptions(Options):
    """What to compare.

    Examples
    --------
    >>> ReduceOptions(codes="2,10").codes
    (2, 10)
    """

    codes: tuple[int, ...] = option(
        (2, 10, 30), "Code lengths to compare.", metavar="N,N,...", min_length=1
    )
    corruption: str | None = option(
        None,
        "Corruption that the autoencoders learn to undo: noise:25, mask:0.3, ...; by default none, "
        "and for documents mask:0.5, which hides half of the words.",
        group=AUTOENCODERS,
    )
    loss: Literal["squared", "cross_entropy"] = option(
        "squared", "Loss of the autoencoders: squared or cross_entropy.", group=AUTOENCODERS
    )
    epochs: int | None = option(
        None,
        "Passes over the training data; by default 20 to 500, more for small data sets.",
        group=AUTOENCODERS,
        ge=1,
    )
    layers: tuple[int, ...] | None = option(
        None,
        "Sizes of the hidden layers of the fully connected autoencoder, such as 1000,500,250.",
        group=AUTOENCODERS,
        metavar="N,N,...",
    )
    neighbors: int = option(7, "k of the k-NN accuracy; k = 1 is always measured, too.", ge=1)
    outliers: float = option(
        0.05,
        "Share of training rows replaced by noise in the outlier experiment; 0 skips the "
        "experiment.",
        ge=0,
        lt=1,
    )
    weighting: Literal["tf-idf", "log", "counts"] = option(
        "tf-idf", "Weighting of the words of documents: tf-idf, log or counts.", group=DATA
    )
    standardize: bool = option(
        True, "Scale the columns of a table to mean 0 and standard deviation 1 first.", group=DATA
    )
    test_share: float = option(
        0.2,
        "Share of the rows that is held out for measuring, if the data have no test rows.",
        group=DATA,
        gt=0,
        lt=1,
    )
    size: int | None = option(
        None,
        "Side in pixels to which pictures are resized. The default is 32; but pictures that all "
        "have the same size, of at most 4,096 pixels (64x64), are not resized.",
        group=DATA,
        ge=4,
        le=512,
    )
    label: str | None = option(None, "Column or array that holds the labels.", group=DATA)
    limit: int | None = option(None, "Use only this many rows, chosen at random.", group=DATA, ge=1)
    seed: int = option(
        0,
        "Seed of weights and batches, and of the choice of rows.",
        group=COMPUTING,
        ge=0,
        lt=2**32,
    )
    device: str = option("auto", DEVICES, group=COMPUTING)
    dtype: str = option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is bfloat16 on devices with native bfloat16.",
        group=COMPUTING,
    )

    @field_validator("codes", "layers", mode="before")
    @classmethod
    def _numbers(cls, given: Any, info: Any) -> Any:
        if not isinstance(given, str):
            return given
        if not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", given):
            raise OptionError(
                f'{info.field_name} "{given}" cannot be read; write whole numbers of at least '
                "1, such as 2,10,30"
            )
        return tuple(int(n) for n in given.split(","))

    @field_validator("codes", "layers")
    @classmethod
    def _positive(cls, given: tuple[int, ...] | None, info: Any) -> tuple[int, ...] | None:
        if given is not None and min(given, default=1) < 1:
            raise OptionError(f"{info.field_name}: {min(given)} is not at least 1")
        return given

    @field_validator("corruption")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        from sfumato.corruption.base import parse

        if text is not None:
            parse(text)
        return text

    def check_kind(self, kind: str) -> None:
        """Refuse options that were given, but have no effect on this kind of data.

        Raises
        ------
        OptionError
        """
        for name, its in (("size", "pictures"), ("weighting", "documents")):
            if name in self.model_fields_set and kind != its:
                raise OptionError(f"--{name} is for {its}; the data are {kind}")
