"""The options of `restore`: one record for library and command line, validated in one place."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from sfumato.errors import OptionError
from sfumato.types import Options

Only = Literal["noise", "gaps", "size"] | None


def rgb(text: str) -> tuple[int, int, int]:
    """A color written as #rrggbb.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> rgb("#ff8000")
    (255, 128, 0)
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise OptionError(f'color "{text}" cannot be read; write #rrggbb, as "#ff0000"')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


class RestoreOptions(Options):
    """What to undo; at least one thing."""

    denoise: Literal["auto"] | float | None = None  # deviation of the noise for values of 0 to 255
    dejpeg: Literal["auto"] | int | None = None  # quality that the picture was compressed with
    fill: str | None = None  # picture: white = make anew
    fill_box: tuple[int, int, int, int] | None = None  # x, y, width, height
    fill_color: str | None = None  # "#rrggbb": make anew what has that color
    fill_scratches: bool = False
    colorize: bool = False
    hints: tuple[tuple[int, int, str], ...] = ()  # x, y, "#rrggbb"
    enlarge: float | None = Field(None, ge=1.5, le=8)
    best: bool = False  # take the mean of eight answers: slower and a little better
    clean: bool = False  # undo what a network of one's own was trained on, without being told more

    @model_validator(mode="after")
    def _sensible(self) -> RestoreOptions:
        if self.hints and not self.colorize:
            raise OptionError("--hint says a color: it goes with --colorize")
        if not (self.structural or self.colorize):
            raise OptionError(
                "nothing to undo; give --denoise, --dejpeg, --fill, --fill-box, --fill-color, --fill-scratches, --colorize or --enlarge"
            )
        if self.best and not self.structural:
            raise OptionError("--best is not for --colorize alone")
        if isinstance(self.denoise, float) and not 0 < self.denoise <= 255:
            raise OptionError(f"sigma {self.denoise:g} is not within 0 to 255")
        if isinstance(self.dejpeg, int) and not 1 <= self.dejpeg <= 100:
            raise OptionError(f"JPEG quality {self.dejpeg} is not within 1 to 100")
        for text in (self.fill_color, *(color for _, _, color in self.hints)):
            if text is not None:
                rgb(text)
        return self

    @property
    def only(self) -> Only:
        """What is all there is to undo, but for color, if it is one thing."""
        asked: dict[Only, bool] = {"noise": self.denoise is not None, "gaps": self.fills, "size": self.enlarge is not None}
        chosen = [name for name, wanted in asked.items() if wanted]
        return chosen[0] if len(chosen) == 1 and not self.clean and self.dejpeg is None else None

    def in_turn(self) -> list[RestoreOptions]:
        """The same, one after the other: what is missing, noise and JPEG, size. Color is asked for in each, so that all work on gray."""
        kinds = ("fill", "fill_box", "fill_color", "fill_scratches"), ("denoise", "dejpeg"), ("enlarge",)
        nothing = {name: type(self).model_fields[name].default for kind in kinds for name in kind}
        asked = [kind for kind in kinds if any(getattr(self, name) for name in kind)]
        return [self.model_copy(update={name: none for name, none in nothing.items() if name not in kind}) for kind in asked]

    @property
    def fills(self) -> bool:
        """Whether a part is made anew."""
        return bool(self.fill or self.fill_box or self.fill_color or self.fill_scratches)

    @property
    def structural(self) -> bool:
        """Whether anything but color is asked for."""
        return bool(self.fills or self.denoise is not None or self.dejpeg is not None or self.enlarge or self.clean)
