"""The options of `restore`: one record for library and command line, validated in one place."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from sfumato.config import Options, option
from sfumato.errors import OptionError

Only = Literal["noise", "gaps", "size"] | None
COMPUTING, SEVERAL = "Model and computing", "Several answers"
DIFFUSION = "With --engine diffusion"
OF_DIFFUSION = frozenset({"prompt", "steps", "guidance_scale"})
OF_SEVERAL = frozenset({"samples", "seed"})
# options that choose the means; all others name what to undo
HOW = OF_DIFFUSION | OF_SEVERAL | {"engine", "model", "device", "dtype"}


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


def _hint(text: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"(\d+),(\d+),(#[0-9a-fA-F]{6})", text)
    if not match:
        raise OptionError(f'--hint "{text}" cannot be read; write X,Y,#rrggbb')
    return int(match[1]), int(match[2]), match[3]


class RestoreOptions(Options):
    """What to undo (at least one thing), and by which means.

    Examples
    --------
    >>> RestoreOptions(fill_box="10,20,30,40").fill_box
    (10, 20, 30, 40)
    """

    denoise: Literal["auto"] | float | None = option(
        None,
        "Deviation of the noise for values of 0 to 255; auto measures it.",
        flags="--denoise --noise-level",
        bare="auto",
        metavar="auto|SIGMA",
    )
    dejpeg: Literal["auto"] | int | None = option(
        None,
        "Remove JPEG artifacts; auto takes the quality from the file.",
        flags="--dejpeg --jpeg-quality",
        bare="auto",
        metavar="auto|QUALITY",
    )
    fill: str | None = option(
        None, "Mask picture: white = inpaint; all other pixels stay bit for bit."
    )
    fill_box: tuple[int, int, int, int] | None = option(
        None, "Box to inpaint, in pixels.", metavar="X,Y,W,H"
    )
    fill_color: str | None = option(None, "Inpaint what was painted in this color, as '#ff0000'.")
    fill_tolerance: float | None = option(
        None,
        "How far from --fill-color a channel of 0 to 255 may be; by default 40, of a JPEG 60.",
        gt=0,
        le=255,
    )
    fill_scratches: bool = option(False, "Find scratches, folds and specks, and inpaint them.")
    sensitivity: float = option(
        0.5, "Of --fill-scratches: more finds more, and takes more that is no damage.", gt=0, lt=1
    )
    colorize: bool = option(False, "Give a gray picture colors; its luminance stays.")
    saturation: float = option(
        1.0, "Of --colorize: 0 is gray, 1 as guessed, 2 twice as strong.", ge=0, le=4
    )
    like: str | None = option(
        None, "A photo in colors, whose palette --colorize takes.", metavar="PHOTO"
    )
    hints: tuple[tuple[int, int, str], ...] = option(
        (),
        "Color that --colorize must give to one point; may be given again.",
        flags="--hint",
        metavar="X,Y,#rrggbb",
    )
    enlarge: float | None = option(None, "Factor of enlargement.", ge=1.5, le=8)
    ensemble: bool = option(
        False,
        "Average the outputs for eight rotations and flips of the picture: eight times slower.",
    )
    clean: bool = option(
        False, "Undo what your own --model was trained on, as pairs of dirty and clean pictures."
    )

    engine: Literal["auto", "network", "patches", "diffusion"] = option(
        "auto",
        "auto; network: one trained network for all; patches: fill holes with texture of the "
        "picture's own; diffusion: any text-to-image model. auto takes patches for wide holes and "
        "networks for all else.",
        group=COMPUTING,
    )
    model: str | None = option(
        None,
        "Folder written by sfumato train restorer; for diffusion, a model as create takes it, "
        "icons by default.",
        group=COMPUTING,
    )
    device: str = option("auto", "auto, cpu, cuda or mps.", group=COMPUTING)
    dtype: str = option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is bfloat16 where the device is fast at it.",
        group=COMPUTING,
    )

    prompt: str = option("", "What the picture shows.", group=DIFFUSION)
    samples: int = option(
        1,
        "How many answers; of several, a picture shows where they differ.",
        group=SEVERAL,
        ge=1,
        le=64,
    )
    seed: int | None = option(
        None,
        "Same seed, same answer; patches begin with 0, diffusion at random.",
        group=SEVERAL,
        ge=0,
        lt=2**63,
    )
    steps: int | None = option(
        None, "Sampler steps; the model's own number by default.", group=DIFFUSION, ge=1, le=1000
    )
    guidance_scale: float | None = option(
        None, "How closely to follow the text; 1 is off.", group=DIFFUSION, ge=0, le=100
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _engine(cls, given: Any) -> Any:
        return "auto" if given == "trained" else given  # its former name

    @field_validator("denoise", "dejpeg", mode="before")
    @classmethod
    def _number(cls, given: Any, info: ValidationInfo) -> Any:
        kind, what = (int, "a whole number") if info.field_name == "dejpeg" else (float, "a number")
        if not isinstance(given, str) or given == "auto":
            return given
        try:
            return kind(given)
        except ValueError:
            raise OptionError(
                f'--{info.field_name} "{given}" cannot be read; write auto or {what}'
            ) from None

    @field_validator("fill_box", mode="before")
    @classmethod
    def _box(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if not re.fullmatch(r"\d+(,\d+){3}", given):
            raise OptionError(f'--fill-box "{given}" cannot be read; write X,Y,W,H in pixels')
        return tuple(int(n) for n in given.split(","))

    @field_validator("hints", mode="before")
    @classmethod
    def _hints(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return tuple(_hint(one) if isinstance(one, str) else one for one in given)

    @model_validator(mode="after")
    def _sensible(self) -> RestoreOptions:
        diffuses = self.engine == "diffusion" or (self.engine == "auto" and self.model is not None)
        if self.model_fields_set & OF_DIFFUSION and not diffuses:
            raise OptionError(
                "--prompt, --steps and --guidance-scale go with --engine diffusion, or with a "
                "text-to-image --model"
            )
        several = self.engine != "network" and (self.fills or diffuses)
        if self.model_fields_set & OF_SEVERAL and not several:
            raise OptionError(
                "--samples and --seed go with what has several answers: a hole that is filled, or "
                "--engine diffusion"
            )
        if self.engine == "patches" and not self.fills:
            raise OptionError(
                "--engine patches fills holes: give --fill, --fill-box or --fill-color"
            )
        if self.fill_tolerance is not None and self.fill_color is None:
            raise OptionError("--fill-tolerance goes with --fill-color")
        if "sensitivity" in self.model_fields_set and not self.fill_scratches:
            raise OptionError("--sensitivity goes with --fill-scratches")
        of_color = bool(self.hints or self.like or "saturation" in self.model_fields_set)
        if of_color and not self.colorize:
            raise OptionError("--hint, --like and --saturation are about colors: add --colorize")
        if not (self.structural or self.colorize):
            raise OptionError(
                "nothing to undo; give --denoise, --dejpeg, --fill, --fill-box, --fill-color, "
                "--fill-scratches, --colorize or --enlarge"
            )
        if self.ensemble and not self.structural:
            raise OptionError("--ensemble is not for --colorize alone")
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
        """The only thing to undo apart from color; None if there are several."""
        asked: dict[Only, bool] = {
            "noise": self.denoise is not None,
            "gaps": self.fills,
            "size": self.enlarge is not None,
        }
        chosen = [name for name, wanted in asked.items() if wanted]
        return chosen[0] if len(chosen) == 1 and not self.clean and self.dejpeg is None else None

    def stages(self) -> list[RestoreOptions]:
        """Split the options into stages: fill, then remove noise and JPEG artifacts, then enlarge.

        Every stage keeps the option `colorize`, which makes it work on a gray picture; color is
        added after the last stage.
        """
        kinds = (
            ("fill", "fill_box", "fill_color", "fill_scratches"),
            ("denoise", "dejpeg"),
            ("enlarge",),
        )
        nothing = {name: type(self).model_fields[name].default for kind in kinds for name in kind}
        asked = [kind for kind in kinds if any(getattr(self, name) for name in kind)]
        return [
            self.model_copy(
                update={name: none for name, none in nothing.items() if name not in kind}
            )
            for kind in asked
        ]

    @property
    def fills(self) -> bool:
        """Whether the options ask to inpaint."""
        return bool(self.fill or self.fill_box or self.fill_color or self.fill_scratches)

    @property
    def structural(self) -> bool:
        """Whether anything but color is asked for."""
        return bool(
            self.fills
            or self.denoise is not None
            or self.dejpeg is not None
            or self.enlarge
            or self.clean
        )
