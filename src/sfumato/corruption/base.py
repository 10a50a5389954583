"""Registry, string form and composition of corruptions.

``parse("mask:0.5+noise:25")`` returns a corruption that hides half of the pixels and then adds
noise; ``str`` of the corruption is the same string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor

from sfumato.corruption.blur import Blur
from sfumato.corruption.color import Grayscale
from sfumato.corruption.jpeg import JPEG
from sfumato.corruption.mask import PictureMask, RandomMask
from sfumato.corruption.noise import FilmGrain, GaussianNoise, SaltAndPepper, ShotNoise
from sfumato.corruption.resample import Downscale, RandomDownscale
from sfumato.corruption.scratch import Scratches
from sfumato.errors import OptionError, unknown
from sfumato.types import Corrupted, Corruption, Linear


@dataclass(frozen=True)
class Compose:
    """Corruptions applied one after the other; an empty composition is the identity.

    The composition is linear if all its parts are linear. A random mask becomes linear when
    :func:`draw` samples it.
    """

    parts: tuple[Corruption, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.parts)) or "none"

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Corrupted:
        """Apply all parts; the squared noise levels of the parts add up."""
        y, variance = x, torch.zeros(len(x), device=x.device)
        for part in self.parts:
            out = part(y, generator=generator)
            y, variance = out.y, variance + out.sigma.square()
        return Corrupted(y, variance.sqrt())

    @property
    def linear(self) -> tuple[Linear, ...]:
        """The parts as linear operators.

        Raises
        ------
        OptionError
            If a part is not linear.
        """
        for part in self.parts:
            if not isinstance(part, Linear):
                raise OptionError(
                    f'"{part}" is not linear and has no adjoint; sample random masks by draw()'
                )
        return cast("tuple[Linear, ...]", self.parts)

    def apply(self, x: Tensor) -> Tensor:
        """Return ``A x``, without noise."""
        for part in self.linear:
            x = part.apply(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``A' y``: the adjoints of the parts in reverse order."""
        for part in reversed(self.linear):
            y = part.adjoint(y)
        return y

    def pinv(self, y: Tensor, tolerance: float = 1e-13, limit: int = 500) -> Tensor:
        """Compute ``A+ y`` in float64 by conjugate gradients on the normal equations (Hestenes &
        Stiefel 1952, section 10).

        Conjugate gradients that start at zero converge to the least-squares solution of least norm.

        Parameters
        ----------
        y : Tensor, (B, ...)
        tolerance : float
            Stop when the norm of the gradient has fallen by this factor.
        limit : int
            Largest number of iterations.
        """
        residual = y.double()
        gradient = self.adjoint(residual)
        x, direction = torch.zeros_like(gradient), gradient
        power = start = gradient.square().sum()
        for _ in range(limit):
            if power <= tolerance**2 * start:
                break
            image = self.apply(direction)
            length = power / image.square().sum()
            x, residual = x + length * direction, residual - length * image
            gradient = self.adjoint(residual)
            before, power = power, gradient.square().sum()
            direction = gradient + power / before * direction
        return x.to(y.dtype)


def parts_of(corruption: Corruption) -> tuple[Corruption, ...]:
    """Return the parts of a composition, or the corruption itself as the only part."""
    return corruption.parts if isinstance(corruption, Compose) else (corruption,)


def draw(corruption: Corruption, x: Tensor, generator: Generator | None = None) -> Corruption:
    """Sample the random masks, downsampling factors and JPEG qualities of a corruption.

    They are sampled for pictures of the shape of `x`.

    The result is the corruption with these parameters fixed; it is linear unless a part is
    not linear (JPEG, shot noise, salt and pepper, scratches). Noise and scratches are still sampled
    at each call.
    """
    if isinstance(corruption, Compose):
        parts, seen = [], x
        for part in corruption.parts:
            parts.append(draw(part, seen, generator))
            seen = parts[-1].apply(seen) if isinstance(parts[-1], Linear) else seen
        return Compose(tuple(parts))
    drawn = RandomMask | PictureMask | Downscale | RandomDownscale | JPEG
    return corruption.draw(x, generator) if isinstance(corruption, drawn) else corruption


def _range(words: Sequence[str]) -> tuple[float, float]:
    low, _, high = words[0].partition("-")
    return float(low), float(high or low)


def _grain(words: Sequence[str]) -> Corruption:
    soft = float(words[1]) if len(words) > 1 else FilmGrain.soft
    return FilmGrain(*_range(words), soft)


def _mask(words: Sequence[str]) -> Corruption:
    if words[0] == "file":
        if not any(words[1:]):
            raise ValueError
        return PictureMask(":".join(words[1:]))
    if words[0][:1].isdigit() or words[0][:1] == ".":
        (share,) = words
        return RandomMask("pixels", float(share))
    return RandomMask(
        words[0], float(words[1]) if len(words) > 1 else RandomMask.shares.get(words[0], 0.5)
    )


def _jpeg(words: Sequence[str]) -> Corruption:
    low, high = _range(words)
    if not low.is_integer() or not high.is_integer():
        raise ValueError
    return JPEG(int(low), int(high))


def _down(words: Sequence[str]) -> Corruption:
    low, high = _range(words)
    if low == high:
        return Downscale(low, words[1] if len(words) > 1 else "bicubic")
    if len(words) > 1:
        raise OptionError(
            f"a range of factors allows only the bicubic kernel: write down:{words[0]}"
        )
    return RandomDownscale(low, high)


CORRUPTIONS: dict[str, tuple[Callable[[Sequence[str]], Corruption], str]] = {
    "none": (lambda words: Compose(()), "none"),
    "noise": (
        lambda words: GaussianNoise(*_range(words)),
        "noise:25 or noise:0-50, the level for pixels of 0 to 255",
    ),
    "grain": (
        _grain,
        "grain:25 or grain:0-50:0.7, the level of a film's grain and its blur in pixels",
    ),
    "shot": (
        lambda words: ShotNoise(*_range(words)),
        "shot:25 or shot:0-50, the level of shot noise, which is stronger in bright pixels",
    ),
    "salt": (
        lambda words: SaltAndPepper(float(words[0])),
        "salt:0.1, the share of pixels that turn black or white",
    ),
    "mask": (
        _mask,
        "mask:0.5 (random pixels), mask:box:0.25, mask:strokes:0.2, mask:text:0.1, "
        "mask:file:PICTURE (white = hidden)",
    ),
    "gray": (lambda words: Grayscale(), "gray"),
    "down": (_down, "down:2 (bicubic), down:2:average or down:1.5-4, factors of 1.5 to 8"),
    "blur": (
        lambda words: Blur(float(words[0])),
        "blur:1.6, the kernel's standard deviation in pixels",
    ),
    "scratches": (
        lambda words: Scratches(float(words[0])),
        "scratches:0.05, roughly the maximum share of the picture that is covered",
    ),
    "jpeg": (_jpeg, "jpeg:30 or jpeg:10-95, the quality"),
}


# maximum number of words after a name; 1 for the other names
MOST = {"none": 0, "gray": 0, "mask": 2, "down": 2, "grain": 2}


def parse(text: str) -> Corruption:
    """Build a corruption from its string form, such as ``"mask:0.5+noise:25"``.

    ``+`` joins corruptions that are applied one after the other: ``none``, ``noise:25`` or
    ``noise:0-50``, ``grain:25`` or ``grain:25:0.7``, ``shot:25``, ``salt:0.1``, ``mask:0.5``,
    ``mask:box:0.25``, ``mask:strokes:0.2``, ``mask:text:0.1``, ``mask:file:PICTURE``, ``gray``,
    ``down:2``, ``down:2:average`` or ``down:1.5-4``, ``blur:1.6``, ``scratches:0.05``, ``jpeg:30``
    or ``jpeg:10-95``. ``docs/train.md`` describes them.

    Raises
    ------
    OptionError
        If a name or number is not accepted.

    Examples
    --------
    >>> str(parse("mask:0.5+noise:25"))
    'mask:0.5+noise:25'
    """
    if "|" in text:
        raise OptionError(
            f'"{text}" has alternatives, which only train restorer accepts; give one corruption'
        )
    parts = []
    for word in text.split("+"):
        name, *words = word.strip().split(":")
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
        build, usage = CORRUPTIONS[name]
        try:
            if len(words) > MOST.get(name, 1) and [name, *words[:1]] != ["mask", "file"]:
                raise ValueError
            parts.append(build(words))
        except OptionError:
            raise
        except (ValueError, IndexError, TypeError, OverflowError):
            raise OptionError(f'"{word.strip()}" cannot be read; write {usage}') from None
    return parts[0] if len(parts) == 1 else Compose(tuple(parts))


def check_for_rows(text: str) -> None:
    """Raise an error if a corruption needs neighboring pixels or color, which rows of a table lack.

    Raises
    ------
    OptionError
    """
    for part in parts_of(parse(text)):
        pixels = isinstance(part, RandomMask) and part.kind == "pixels"
        if not pixels and not isinstance(part, GaussianNoise | SaltAndPepper | ShotNoise):
            raise OptionError(
                f'corruption "{part}" needs pictures; for tables and documents, use noise, shot, '
                "salt or mask, such as mask:0.3"
            )
