"""Pictures and calls that the tests of `restore` share."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from sfumato.cli import main

PHOTO = np.ascontiguousarray(load_sample_images().images[0][100:180, 200:310])


def pictures(kind):
    return {
        "RGB": PHOTO,
        "gray": PHOTO[..., :1],
        "16 bits": PHOTO[..., :1].astype(np.uint16) * 257 + 3,
    }[kind]


def lab(rgb):
    """CIELAB of an sRGB color, D65."""
    linear = np.where(rgb / 255 > 0.04045, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / (0.9505, 1, 1.089)
    )
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def scene(seed):
    """A photograph of sorts (3, 240, 320), 0 to 255: soft shapes, edges and texture, with parts
    that are nearly black and white.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320] / 60.0
    out = np.stack(
        [
            128
            + 170
            * np.sin(random.uniform(0.5, 2) * x + random.uniform(0, 6))
            * np.cos(random.uniform(0.5, 2) * y)
            for _ in range(3)
        ]
    )
    edge = (x * random.uniform(-1, 1) + y > 2) * 60
    return (out + edge + 6 * np.sin(9 * x) * np.sin(7 * y)).clip(0, 255)


def page_of_text(size, paper=255, ink=0, sides=(480, 320)):
    """Lines of random letters on paper."""
    picture = Image.new("L", sides, paper)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size)
    random = np.random.default_rng(0)
    for top in range(16, sides[1] - 20, round(1.4 * size)):
        text = "".join(random.choice(list("abcdefghijklmno   "), sides[0] // 8))
        pen.text((16, top), text, fill=ink, font=font)
    return picture


def mask(path, size=(110, 80), white=None):
    picture = Image.new("L", size)
    if white:
        picture.paste(255, white)
    picture.save(path)
    return str(path)


def run(capsys, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["sfumato", "restore", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()
