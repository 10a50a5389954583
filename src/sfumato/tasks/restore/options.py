"""The options of `restore`: one record for library and command line, validated in one place."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from sfumato.config import DEVICES, option
from sfumato.errors import OptionError
from sfumato.tasks.options import PictureOptions

Only = Literal["noise", "gaps", "size"] | None
COMPUTING, SEVERAL = "Model and computing", "Several results"
DIFFUSION = "With --engine diffusion"
OF_DIFFUSION = frozenset({"prompt", "steps", "guidance_scale"})
OF_SEVERAL = frozenset({"samples", "seed"})
# options that choose the method; all others name the damage to undo
HOW = OF_DIFFUSION | OF_SEVERAL | {"engine", "model", "device", "dtype"}


def rgb(text: str) -> tuple[int, int, int]:
    """A color written as #rrggbb, #rgb or a name of CSS.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> rgb("#ff8000"), rgb("navy")
    ((255, 128, 0), (0, 0, 128))
    """
    from PIL import ImageColor  # imported here, since --help needs no Pillow

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise OptionError(
            f'color "{text}" cannot be read; write #rrggbb or a name, such as "#ff0000" or red'
        ) from None
    return red, green, blue


def _hint(text: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"(\d+),(\d+),(.+)", text)
    if not match:
        raise OptionError(f'--hint "{text}" cannot be read; write X,Y,#rrggbb')
    return int(match[1]), int(match[2]), match[3]


class RestoreOptions(PictureOptions):
    """The damage to undo (at least one kind), and the method.

    Examples
    --------
    >>> RestoreOptions(fill_box="10,20,30,40").fill_box
    (10, 20, 30, 40)
    """

    denoise: Literal["auto"] | float | None = option(
        None,
        "Remove noise. SIGMA is the standard deviation of the noise, for values of 0 to 255; auto "
        "measures it. Without a value, the option means auto.",
        flags="--denoise --noise-level",
        bare="auto",
        metavar="auto|SIGMA",
    )
    dejpeg: Literal["auto"] | int | None = option(
        None,
        "Remove JPEG artifacts. QUALITY is the JPEG quality, 1 to 100; auto reads it from the JPEG "
        "file. Without a value, the option means auto.",
        flags="--dejpeg --jpeg-quality",
        bare="auto",
        metavar="auto|QUALITY",
    )
    fill: str | bytes | None = option(
        None,
        "File of a mask picture. White pixels are inpainted. All other pixels are copied without "
        "any change; only a JPEG output changes them slightly.",
        is_picture=True,
    )
    fill_box: tuple[int, int, int, int] | None = option(
        None, "Box to inpaint, in pixels: left, top, width, height.", metavar="X,Y,W,H"
    )
    fill_color: str | None = option(
        None, "Inpaint the pixels painted in this color, such as '#ff0000' or red."
    )
    fill_tolerance: float | None = option(
        None,
        "Largest difference from --fill-color in any color channel; by default 40, for a JPEG 60.",
        gt=0,
        le=255,
    )
    fill_scratches: bool = option(False, "Find scratches, folds and specks, and inpaint them.")
    sensitivity: float = option(
        0.5,
        "For --fill-scratches: higher values find more damage, but also mark more undamaged "
        "pixels.",
        gt=0,
        lt=1,
    )
    colorize: bool = option(False, "Colorize a gray picture; its luminance stays unchanged.")
    saturation: float = option(
        1.0,
        "For --colorize: 0 gives gray, 1 the estimated colors, 2 twice the saturation.",
        ge=0,
        le=4,
    )
    like: str | bytes | None = option(
        None,
        "File of a color photo whose palette --colorize uses.",
        metavar="PHOTO",
        is_picture=True,
    )
    hints: tuple[tuple[int, int, str], ...] = option(
        (),
        "A known color for --colorize: the pixel at X, Y gets this color, but keeps its own "
        "luminance. Can be given several times.",
        flags="--hint",
        metavar="X,Y,#rrggbb",
    )
    enlarge: float | None = option(None, "Factor of enlargement.", ge=1.5, le=8)
    ensemble: bool = option(
        False,
        "Average the outputs for eight rotations and flips of the picture; takes eight times as "
        "long.",
    )
    clean: bool = option(
        False,
        "Apply your own --model that was trained on pairs of dirty and clean pictures.",
    )

    engine: Literal["auto", "network", "patches", "diffusion"] = option(
        "auto",
        "auto: patches for wide holes and networks for everything else, or diffusion if --model is "
        "a text-to-image model; network: trained networks for everything; patches: fill holes with "
        "texture from the picture itself; diffusion: any text-to-image model.",
        group=COMPUTING,
    )
    model: str | None = option(
        None,
        "Folder written by sfumato train restorer; or a text-to-image model, as for create (by "
        "default icons, with --engine diffusion).",
        group=COMPUTING,
    )
    device: str = option("auto", DEVICES, group=COMPUTING)
    dtype: str = option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is bfloat16 on devices with native bfloat16, but "
        "for diffusion float32 on a CPU.",
        group=COMPUTING,
    )

    prompt: str = option("", "For diffusion: what the picture shows.", group=DIFFUSION)
    samples: int = option(
        1,
        "Number of results; an extra picture shows where several results differ.",
        group=SEVERAL,
        ge=1,
        le=64,
    )
    seed: int | None = option(
        None,
        "The same seed gives the same result; the default is 0 for patches, random for diffusion.",
        group=SEVERAL,
        ge=0,
        lt=2**63,
    )
    steps: int | None = option(
        None,
        "For diffusion: sampler steps; the model's own number by default.",
        group=DIFFUSION,
        ge=1,
        le=1000,
    )
    guidance_scale: float | None = option(
        None,
        "For diffusion: how closely to follow the text; 1 turns guidance off.",
        group=DIFFUSION,
        ge=0,
        le=100,
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
                "--prompt, --steps and --guidance-scale need --engine diffusion or a "
                "text-to-image --model"
            )
        several = self.engine != "network" and (self.fills or diffuses)
        if self.model_fields_set & OF_SEVERAL and not several:
            raise OptionError(
                "--samples and --seed need a task with several possible results: a hole to fill, "
                "or --engine diffusion"
            )
        if self.engine == "patches" and not self.fills:
            raise OptionError(
                "--engine patches fills holes: give --fill, --fill-box or --fill-color"
            )
        if self.fill_tolerance is not None and self.fill_color is None:
            raise OptionError("--fill-tolerance needs --fill-color")
        if "sensitivity" in self.model_fields_set and not self.fill_scratches:
            raise OptionError("--sensitivity needs --fill-scratches")
        of_color = bool(self.hints or self.like or "saturation" in self.model_fields_set)
        if of_color and not self.colorize:
            raise OptionError("--hint, --like and --saturation need --colorize")
        if not (self.structural or self.colorize):
            raise OptionError(
                "nothing to undo; give --denoise, --dejpeg, --fill, --fill-box, --fill-color, "
                "--fill-scratches, --colorize or --enlarge"
            )
        if self.ensemble and not self.structural:
            raise OptionError("--ensemble has no effect on --colorize alone")
        if isinstance(self.denoise, float) and not 0 < self.denoise <= 255:
            raise OptionError(f"sigma must be above 0 and at most 255, not {self.denoise:g}")
        if isinstance(self.dejpeg, int) and not 1 <= self.dejpeg <= 100:
            raise OptionError(f"JPEG quality {self.dejpeg} is not within 1 to 100")
        for text in (self.fill_color, *(color for _, _, color in self.hints)):
            if text is not None:
                rgb(text)
        return self

    @property
    def only(self) -> Only:
        """The kind of damage, "noise", "gaps" or "size", if only one is to be undone.

        Missing color does not count. None for several kinds, and for any other kind.
        """
        asked: dict[Only, bool] = {
            "noise": self.denoise is not None,
            "gaps": self.fills,
            "size": self.enlarge is not None,
        }
        chosen = [name for name, wanted in asked.items() if wanted]
        return chosen[0] if len(chosen) == 1 and not self.clean and self.dejpeg is None else None

    @property
    def only_fills(self) -> bool:
        """Whether filling holes is the only repair, and all other pixels stay as they are."""
        return self.only == "gaps" and not self.colorize

    def stages(self) -> list[RestoreOptions]:
        """Split the options into stages: fill, then remove noise and JPEG artifacts, then enlarge.

        Every stage keeps the option `colorize`; if it is set, every stage works on a gray picture.
        Color is added after the last stage.
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
    def damage(self) -> set[str]:
        """The kinds of damage to undo: denoise, dejpeg, fill, enlarge, colorize, clean."""
        asked = {
            "denoise": self.denoise is not None,
            "dejpeg": self.dejpeg is not None,
            "fill": self.fills,
            "enlarge": self.enlarge is not None,
            "colorize": self.colorize,
            "clean": self.clean,
        }
        return {kind for kind, wanted in asked.items() if wanted}

    @property
    def structural(self) -> bool:
        """Whether the options request anything except color."""
        return bool(
            self.fills
            or self.denoise is not None
            or self.dejpeg is not None
            or self.enlarge
            or self.clean
        )
