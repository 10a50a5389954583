"""The options of `evaluate restore`: one class shared by library, command line and server."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from sfumato.config import DEVICES, Options, option
from sfumato.errors import OptionError

Task = Literal["denoise", "enlarge", "dejpeg", "fill", "colorize"]
DAMAGE, COMPUTING = "Damage (give exactly one)", "Model and computing"


class EvaluateOptions(Options):
    """One kind of damage to pictures, and the method that restores them."""

    denoise: float | None = option(
        None,
        "Add Gaussian noise of this standard deviation, for values of 0 to 255.",
        group=DAMAGE,
    )
    enlarge: float | None = option(None, "Shrink the pictures by this factor.", group=DAMAGE)
    dejpeg: int | None = option(
        None, "Compress the pictures as JPEGs of this quality, 1 to 100.", group=DAMAGE
    )
    fill: str | None = option(
        None,
        "Hide pixels. The shape of the hidden pixels is text, scratches, boxes or pixels (80 % of "
        "all pixels, chosen at random).",
        group=DAMAGE,
    )
    colorize: bool = option(False, "Remove the color.", group=DAMAGE)
    gray: bool = option(False, "Convert the pictures to gray first.")
    method: str = option(
        "trained",
        "trained (the trained networks); ensemble (their mean output for the eight rotations and "
        "flips of a picture); or a baseline: bicubic for --enlarge, input (the damaged picture) "
        "for other damage.",
    )
    model: str | None = option(
        None,
        "A restorer of your own: a folder written by sfumato train restorer.",
        group=COMPUTING,
    )
    device: str = option("auto", DEVICES, group=COMPUTING)
    dtype: str = option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is bfloat16 on devices with native bfloat16.",
        group=COMPUTING,
    )

    @model_validator(mode="after")
    def _one(self) -> EvaluateOptions:
        if len(self._asked()) != 1:
            raise OptionError(
                "give one of --denoise SIGMA, --enlarge FACTOR, --dejpeg QUALITY, --fill SHAPE "
                "and --colorize"
            )
        return self

    def _asked(self) -> dict[Task, float | str]:
        amounts: dict[Task, float | str | None] = {
            "denoise": self.denoise,
            "enlarge": self.enlarge,
            "dejpeg": self.dejpeg,
            "fill": self.fill,
            "colorize": self.colorize or None,
        }
        return {task: amount for task, amount in amounts.items() if amount is not None}

    @property
    def damage(self) -> tuple[Task, float | str]:
        """The restoration task, and the amount of damage.

        The amount is a number, the shape for ``fill``, or True for ``colorize``.
        """
        ((task, amount),) = self._asked().items()
        return task, amount
