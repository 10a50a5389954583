"""What the recipes make of their data."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def augment(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES / "icons")
    spec = importlib.util.spec_from_file_location("augment", RECIPES / "icons" / "augment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(color, name="apple"):
    """A square at the left of a white picture."""
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste(color, (4, 4, 40, 60))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return {
        "image": stream.getvalue(),
        "name": name,
        "style_phrase": "Noto emoji",
        "keywords": ["fruit"],
        "category": None,
        "id": f"noto:{name}",
    }


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_pictures_are_mirrored_and_recolored(augment):
    original, mirror, *tinted = augment.augmented(row("#cc2010"), ["apple"], 1.0, tint=True)
    assert np.array_equal(pixels(mirror[0]), pixels(original[0])[:, ::-1])
    assert original[2] + mirror[2] == pytest.approx(1.0)
    assert len(tinted) == 2
    for png, texts, weight in tinted:
        color = texts[-1].split()[1]
        assert texts[0] == f"{texts[-1]}, Noto emoji"
        assert color != "red"
        assert weight == pytest.approx(0.35 * original[2])
        assert (pixels(png)[:, 45:] == 255).all(), "white stays"
    assert augment.augmented(row("#cc2010"), ["apple"], 1.0, tint=False)[2:] == []
    assert (
        len(augment.augmented(row("#cc2010", "left arrow"), ["left arrow"], 1.0, tint=True)) == 3
    ), "not mirrored"
    assert (
        len(augment.augmented(row("#cc2010", "red apple"), ["red apple"], 1.0, tint=True)) == 2
    ), "named by its color"
    assert len(augment.augmented(row("#808080"), ["apple"], 1.0, tint=True)) == 2, "without a color"


@pytest.mark.parametrize(("color", "channel"), [("green", 1), ("blue", 2)])
def test_a_color_word_becomes_that_color(augment, color, channel):
    made = augment.recolored(
        pixels(row("#cc2010")["image"]) / 255,
        augment.main_hue(pixels(row("#cc2010")["image"]) / 255),
        color,
    )
    assert made[30, 20].argmax() == channel
