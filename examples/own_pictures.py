"""Draw example pictures for fine-tuning: a subject or a style that the model does not know.

    python examples/own_pictures.py subject fizz/       # 24 drawings of a creature
    python examples/own_pictures.py style blueprint/    # 100 things as white lines on blue

The text of each picture is in a .txt file next to it. Then run:

    sfumato train diffusion fizz/ --start icons --output fizz-lora/
    sfumato create "fizz with a red hat" --lora fizz-lora/
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import sfumato

SIDE = 256
HATS = {"red": "#d32f2f", "green": "#2e7d32", "blue": "#1565c0", "yellow": "#f9a825"}
THINGS = (
    "cat,dog,horse,cow,pig,rabbit,bear,fox,lion,elephant,mouse,owl,duck,chicken,penguin,fish,shark,"
    "whale,octopus,crab,turtle,snake,frog,butterfly,bee,snail,tree,flower,rose,cactus,mushroom,leaf,"
    "apple,banana,pear,lemon,strawberry,cherries,grapes,carrot,corn,bread,cheese,pizza,hamburger,"
    "cake,cookie,ice cream,cup of coffee,bottle,fork,knife,spoon,house,castle,church,tent,bridge,"
    "car,bus,truck,bicycle,train,airplane,rocket,ship,sailboat,anchor,helicopter,guitar,piano,"
    "trumpet,drum,violin,book,pencil,scissors,key,lock,hammer,wrench,gear,light bulb,candle,clock,"
    "phone,computer,camera,television,umbrella,hat,shoe,t-shirt,glasses,crown,ring,gift,balloon,"
    "star,sun,moon,cloud,heart,flag"
).split(",")


def creature(rng: random.Random) -> tuple[Image.Image, str]:
    """Draw Fizz, a purple creature with one eye and two orange horns; return it with its text.

    It sometimes wears a hat, looks to one side or jumps.
    """
    picture = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    pen, unit = ImageDraw.Draw(picture), 4 * SIDE / 100
    wide, tall = rng.uniform(26, 31), rng.uniform(27, 33)
    x, y, look = rng.uniform(46, 54), rng.uniform(54, 60), rng.uniform(-5, 5)

    def oval(cx: float, cy: float, rx: float, ry: float, color: str) -> None:
        pen.ellipse([unit * v for v in (cx - rx, cy - ry, cx + rx, cy + ry)], fill=color)

    for side in (-1, 1):
        horn = [(x + side * 9, y - tall + 6), (x + side * 20, y - tall + 13)]
        horn.append((x + side * 20, y - tall - 8))
        pen.polygon([(unit * a, unit * b) for a, b in horn], fill="#f57c00")
        oval(x + side * 12, y + tall, 8, 5, "#5e35b1")
        oval(x + side * wide, y + rng.uniform(-2, 10), 6, 5, "#7e57c2")
    oval(x, y, wide, tall, "#7e57c2")
    oval(x, y + 13, 0.6 * wide, 0.45 * tall, "#b39ddb")
    oval(x, y - 8, 14, 14, "white")
    oval(x + look, y - 7, 6.5, 6.5, "#212121")
    oval(x + look + 2, y - 9, 2, 2, "white")
    box = [unit * v for v in (x - 8, y + 4, x + 8, y + 14)]
    pen.arc(box, 20, 160, fill="#311b92", width=int(1.6 * unit))
    words = "fizz"
    if rng.random() < 0.5:
        name = rng.choice(sorted(HATS))
        top = y - tall
        pen.rectangle([unit * v for v in (x - 12, top - 14, x + 12, top + 3)], fill=HATS[name])
        pen.rectangle([unit * v for v in (x - 19, top, x + 19, top + 4)], fill=HATS[name])
        words = f"fizz with a {name} hat"
    if rng.random() < 0.3:
        oval(x, 97, 18, 2, "#e0e0e0")
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), words


def blueprint(picture: Image.Image) -> Image.Image:
    """The edges of a picture as white lines on blue paper with a grid."""
    values = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    smooth = ndimage.gaussian_filter(values, (2, 2, 0))
    slope = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)).max(axis=2)
    line = np.clip((slope - 60) / 120, 0, 1)[..., None]
    paper = np.empty((SIDE, SIDE, 3))
    paper[:] = (24, 78, 150)
    paper[::32] = paper[:, ::32] = (52, 106, 178)
    return Image.fromarray((line * 255 + (1 - line) * paper).round().astype(np.uint8))


def main(kind: str, folder: Path) -> None:
    """Write pictures and their texts."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "subject":
        rng = random.Random(0)
        drawn = [creature(rng) for _ in range(24)]
    else:
        made = sfumato.create(THINGS[:100], sfumato.CreateOptions(seed=1, size=(256, 256)))
        drawn = [(blueprint(one.picture), f"{one.prompt}, blueprint") for one in made]
    for number, (picture, words) in enumerate(drawn):
        picture.save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(words + "\n")
    print(f"{len(drawn)} pictures with their texts: {folder}")


if __name__ == "__main__":
    what, where = sys.argv[1:] or ("subject", "fizz")
    main(what, Path(where))
