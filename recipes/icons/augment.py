"""Augment the training rows with mirrored and recolored pictures.

A picture is mirrored unless its name, keywords or category contain a word that suggests that left
and right matter. A picture is recolored if one hue covers it and its name contains no color. It
then gets two recolored copies, in two of twelve colors, with the new color in the captions.
"""

from __future__ import annotations

import io
import random
import re
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image

# Hue in degrees, factor of the saturation, factor of the value.
COLORS = {
    "red": (0, 1, 1),
    "orange": (28, 1, 1),
    "yellow": (52, 1, 1),
    "green": (125, 1, 1),
    "teal": (175, 1, 1),
    "blue": (215, 1, 1),
    "purple": (275, 1, 1),
    "pink": (330, 0.75, 1.1),
    "brown": (24, 0.8, 0.6),
    "black": (0, 0.1, 0.3),
    "gray": (0, 0, 0.85),
    "white": (0, 0.08, 1.6),
}
NAMED = {
    *COLORS,
    *"golden silver rainbow navy turquoise crimson violet beige gold colour color grey "
    "dark light".split(),
}
SIDED = re.compile(
    r"left|right|arrow|letter|number|digit|clock|watch|text|input|keycap|sign|flag|\bam\b|\bpm\b|east|west|symbol|button|abc|word|alphabet|font|math"
    r"|percent|question|dollar|euro|yen|currency|calendar|date|dice|music|note|map|globe|moon|quarter|turn|hand|point|wise|\d"
)
MIRRORED = 0.4  # share of a picture's weight that goes to its mirror image
# weight of a recolored picture relative to its original; recolored copies per picture
TINTED, TINTS = 0.35, 2
# smallest concentration of the hues (1: all hues equal), and smallest total of saturation times
# value
ONE_HUE, LEAST = 0.8, 150
NEAR = 25.0  # degrees: a pure hue nearer than this to the picture's own hue is not used
GRAY = 0.35  # pixels less saturated than this keep some or all of their own color


def can_mirror(row: dict[str, Any]) -> bool:
    """Whether a mirrored picture still shows what the caption says."""
    return not SIDED.search(
        " ".join([row["name"], *(row["keywords"] or []), (row["category"] or "").lower()])
    )


def main_hue(pixels: NDArray[Any]) -> float | None:
    """Return the hue (degrees) that covers a picture (H, W, 3) with values 0 to 1.

    None if the picture has several hues or hardly any color.
    """
    hue, saturation, value = np.moveaxis(rgb_to_hsv(pixels), -1, 0)
    amount = saturation * value * (saturation > 0.3) * (value > 0.25)
    mean = (amount * np.exp(2j * np.pi * hue)).sum()
    if amount.sum() <= LEAST or abs(mean) <= ONE_HUE * amount.sum():
        return None
    return float(np.degrees(np.angle(mean)))


def recolored(pixels: NDArray[Any], own: float, color: str) -> NDArray[Any]:
    """Return the picture with its hue shifted from `own` to the hue of a color word.

    White, gray and black pixels stay as they are.
    """
    turned = rgb_to_hsv(pixels)
    hue, more, brighter = COLORS[color]
    ink = turned[..., 1:2].clip(0, GRAY) / GRAY
    turned[..., 0] = (turned[..., 0] + (hue - own) / 360) % 1
    turned[..., 1] *= more
    turned[..., 2] = (turned[..., 2] * brighter).clip(0, 1)
    return pixels + ink * (hsv_to_rgb(turned) - pixels)


def augmented(
    row: dict[str, Any], texts: list[str], weight: float, *, tint: bool
) -> list[tuple[bytes, list[str], float]]:
    """Return the rows (PNG, captions, weight) of one picture.

    They are the picture, its mirror image, and the picture in other colors.
    """
    picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
    out, left = [(row["image"], texts, weight)], weight
    if can_mirror(row):
        left = weight * (1 - MIRRORED)
        out = [
            (row["image"], texts, left),
            (_png(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), texts, weight * MIRRORED),
        ]
    pixels = np.asarray(picture) / 255
    own = main_hue(pixels) if tint and not NAMED & set(row["name"].split()) else None
    if own is not None:
        others = [
            c
            for c, (hue, *factors) in COLORS.items()
            if factors != [1, 1] or abs((hue - own + 180) % 360 - 180) >= NEAR
        ]
        for color in random.Random(row["id"]).sample(others, TINTS):
            tinted = Image.fromarray((recolored(pixels, own, color) * 255).round().astype(np.uint8))
            out.append((_png(tinted), _captions(row, color), left * TINTED))
    return out


def _captions(row: dict[str, Any], color: str) -> list[str]:
    name = f"{color} {row['name']}"
    asked = f"{'an' if color[0] in 'aeiou' else 'a'} {name}"
    styled = f"{asked}, {row['style_phrase']}"
    return [styled, styled, f"{name}, {row['style_phrase']}", asked]


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
