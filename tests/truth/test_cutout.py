"""A picture cut out of white must look on another ground as its true transparency does."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sfumato.tasks.create.cutout import transparent

GROUND = "#203050"


def drawn(shape, size=64, fine=8):
    """A shape with soft edges on a clear ground."""
    large = Image.new("RGBA", (size * fine, size * fine), (255, 255, 255, 0))
    shape(ImageDraw.Draw(large), fine)
    values = np.asarray(large).astype(float)
    values[..., :3] *= values[..., 3:] / 255
    small = values.reshape(size, fine, size, fine, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:] / 255, 1e-9)
    return Image.fromarray(small.round().clip(0, 255).astype(np.uint8), "RGBA")


def on(picture, color):
    out = Image.new("RGBA", picture.size, color)
    out.alpha_composite(picture)
    return out.convert("RGB")


def difference(a, b):
    return float(np.abs(np.asarray(a).astype(float) - np.asarray(b)).mean())


def disk(pen, k):
    pen.ellipse((9.3 * k, 11.6 * k, 55.2 * k, 54.1 * k), fill="#e03020")


def outlined(pen, k):
    pen.ellipse((8 * k, 8 * k, 56 * k, 56 * k), fill="white", outline="black", width=3 * k)


def two_colors(pen, k):
    pen.polygon([(10.5 * k, 50 * k), (30 * k, 9 * k), (52 * k, 50 * k)], fill="#2080d0")
    pen.rectangle((28 * k, 40.5 * k, 60 * k, 58.5 * k), fill="#f0c020")


def lines(pen, k):
    for x in (12, 25, 40):
        pen.line((x * k, 8 * k, (x + 9) * k, 56 * k), fill="#205020", width=2 * k)


@pytest.mark.parametrize("shape", [disk, outlined, two_colors, lines])
def test_soft_edges_keep_no_white(shape):
    true = drawn(shape)
    flat = on(true, "white")
    made = transparent(flat)
    assert difference(on(made, "white"), flat) < 1.0
    hard = np.where(np.asarray(flat).min(2, keepdims=True) > 245, (32, 48, 80), np.asarray(flat))
    wrong = difference(on(made, GROUND), on(true, GROUND))
    assert wrong < 1.0 and wrong < difference(hard, on(true, GROUND)) / 3


def test_white_within_the_subject_stays():
    made = np.asarray(transparent(on(drawn(outlined), "white")))
    assert made[32, 32, 3] == 255 and made[1, 1, 3] == 0


def test_no_ground_and_nothing_but_ground():
    dark = Image.new("RGB", (16, 16), "navy")
    assert transparent(dark).getchannel("A").getextrema() == (255, 255)
    assert transparent(Image.new("RGB", (16, 16), "white")).getchannel("A").getextrema() == (0, 0)


def test_a_faint_tint_on_white_goes():
    """An upscaler leaves spots on the white around a subject."""
    true = drawn(disk)
    values = np.asarray(on(true, "white")).astype(int)
    around = np.asarray(true)[..., 3] == 0
    spots = np.random.default_rng(0).random(around.shape) < 0.02
    values[around & spots] -= (0, 25, 35)
    made = transparent(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    assert difference(on(made, GROUND), on(true, GROUND)) < 1.0


def test_a_subject_of_light_colors_stays():
    def pastel(pen, k):
        pen.ellipse((9 * k, 9 * k, 55 * k, 55 * k), fill="#fff0f5")
        pen.ellipse((25 * k, 25 * k, 40 * k, 40 * k), fill="#e03020")

    made = np.asarray(transparent(on(drawn(pastel), "white")))
    assert made[32, 15, 3] == 255


def test_a_transparency_that_is_there_stays():
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    picture.paste((200, 30, 30, 255), (4, 4, 12, 12))
    picture.putpixel((6, 6), (10, 20, 30, 100))
    made = transparent(picture)
    assert made.getpixel((0, 0)) == (0, 0, 0, 0)
    assert made.getpixel((6, 6)) == (10, 20, 30, 100)
    assert made.getpixel((9, 9)) == (200, 30, 30, 255)


def test_the_color_profile_stays():
    picture = Image.new("RGB", (8, 8), "white")
    picture.paste("red", (2, 2, 6, 6))
    picture.info["icc_profile"] = b"wide"
    assert transparent(picture).info["icc_profile"] == b"wide"
