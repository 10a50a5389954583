"""Measure how often the color in a prompt becomes the color of the picture.

    python benchmarks/colors.py [--seeds 1]

The prompts are "a COLOR THING" for seven colors and twelve things. In each picture, the pixels of
each color are counted. A pixel counts for the color whose band of hue contains its hue, if it is
saturated (saturation of at least 0.25) and not nearly white. A dark pixel (value below 0.3) counts
as black. The color with the most pixels is the color of the picture. The benchmark prints the share
of pictures with the requested color, per color and over all pictures.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create

# lowest and highest hue of each color, in degrees
BANDS = {
    "red": (345, 15),
    "yellow": (40, 68),
    "green": (80, 165),
    "blue": (195, 255),
    "purple": (255, 300),
    "pink": (300, 345),
}
THINGS = (
    "apple", "car", "house", "dog", "cat", "flower", "balloon", "hat", "fish", "bird", "chair",
    "cup",
)  # fmt: skip
SATURATED, DARK, LIGHT = 0.25, 0.3, 0.95


def largest(picture: Image.Image) -> str:
    """Return the color with the most pixels; an empty string if no pixel has a color."""
    hue, saturation, value = np.moveaxis(rgb_to_hsv(np.asarray(picture) / 255.0), 2, 0)
    degrees = 360 * hue
    dark = value < DARK
    vivid = (saturation >= SATURATED) & ~dark & ((value < LIGHT) | (saturation >= 0.35))
    areas = {"black": int(dark.sum())}
    for name, (low, high) in BANDS.items():
        inside = (degrees >= low) & (degrees < high)
        if low > high:
            inside = (degrees >= low) | (degrees < high)
        areas[name] = int((vivid & inside).sum())
    best = max(areas, key=lambda name: areas[name])
    return best if areas[best] else ""


def main(seeds: int) -> None:
    """Generate all pictures and print the shares."""
    model, hits = load("icons"), defaultdict(list)
    for color in (*BANDS, "black"):
        prompts = [f"a {color} {thing}" for thing in THINGS]
        for made in create(prompts, CreateOptions(seed=0, count=seeds), model):
            hits[color].append(largest(made.picture) == color)
    for color, found in hits.items():
        print(f"{color:7} {np.mean(found):.2f}")
    every = [hit for found in hits.values() for hit in found]
    print(f"all     {np.mean(every):.2f}  ({len(every)} pictures)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    main(parser.parse_args().seeds)
