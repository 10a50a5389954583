"""What the recipes make of their data."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def augment(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES / "icons")
    spec = importlib.util.spec_from_file_location("augment", RECIPES / "icons" / "augment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gather(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES / "icons")
    return pytest.importorskip("gather")


def test_the_list_names_icons_of_free_sets_once(gather):
    rows = gather.listed()
    assert len(rows) == len({row.id for row in rows}) == 22_464
    assert {row.style for row in rows} == set(gather.PHRASES)
    assert not {row.parts[0] for row in rows} & {"openmoji", "emojione-v1", "tuxpaint"}


@pytest.mark.parametrize(
    "label, name",
    [
        ("family: man, girl, girl", "family of man, girl and girl"),
        ("three o’clock", "three o'clock"),
        ("keycap: 9", "keycap 9"),
        ("person: white hair", "person with white hair"),
        ("Japanese “vacancy” button", "japanese vacancy button"),
        ("man running: facing right", "man running of facing right"),
    ],
)
def test_names_of_emoji_are_read_as_captions_say_them(gather, label, name):
    assert gather.emoji_name(label) == name


def test_names_of_icons_lose_what_tells_variants_apart(gather):
    assert gather.icon_name("bottle-three") == "bottle"
    assert gather.icon_name("chat-bubbles-question-24") == "chat bubbles question"
    assert gather.icon_name("pin-2-alt") == "pin"


def test_colors_are_those_of_the_ink(gather):
    drawn = Image.new("RGB", (10, 10), "white")
    drawn.paste("#cc2010", (0, 0, 5, 5))
    drawn.paste("#2040cc", (5, 0, 10, 4))
    drawn.paste("black", (9, 9, 10, 10))
    assert gather.colors(drawn) == ["red", "blue"]
    assert gather.colors(Image.new("RGB", (4, 4), "white")) == ["white"]


def test_sides_of_a_drawing_are_brought_to_pixels(gather):
    import render

    svg = '<?xml?><svg height="3in" width="72pt" viewBox="0 0 1 3"><g width="5mm"/></svg>'
    made = render.in_pixels(svg)
    assert 'height="288"' in made and 'width="96"' in made and 'xmlns="' in made
    assert '<g width="5mm"/>' in made


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


@pytest.fixture
def stage():
    spec = importlib.util.spec_from_file_location("stage", RECIPES / "gpu" / "stage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weights_travel_in_parts(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "LARGEST", 900)
    weights = {f"layer{k}.weight": torch.randn(10, 20) for k in range(5)}  # 400 bytes in float16
    (tmp_path / "run" / "unet").mkdir(parents=True)
    save_file(weights, tmp_path / "run" / "unet" / "weights.safetensors")
    save_file(weights, tmp_path / "run" / "checkpoint.safetensors")
    (tmp_path / "out").mkdir()
    files = stage.cut(tmp_path / "run", tmp_path / "out")
    assert {name: len(parts) for name, parts in files.items()} == {"unet/weights.safetensors": 3}
    (tmp_path / "out" / "log.json").write_text(json.dumps({"files": files}))
    stage.join(tmp_path / "out", tmp_path / "again")
    again = load_file(tmp_path / "again" / "unet" / "weights.safetensors")
    assert all(torch.equal(again[name], value.half()) for name, value in weights.items())
    assert again.keys() == weights.keys()


@pytest.mark.slow
def test_a_stage_of_the_gpu_recipe_runs_at_toy_size(stage, tmp_path):
    pictures, captions = [], []
    for k in range(6):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (40 * k, 90, 200)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
        captions.append([f"a blue square {k}"])
    rows = pa.table({"image": pictures, "text": captions, "weight": [1.0] * 6})
    pq.write_table(rows, tmp_path / "augmented.parquet")
    command = ["bash", str(RECIPES / "icons" / "gpu.sh"), "model", str(tmp_path)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [*command, str(tmp_path / "out"), "--toy"], check=True, env={**os.environ, "PATH": path}
    )
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    assert log["steps"] == 3 and "unet/diffusion_pytorch_model.safetensors" in log["files"]
    assert all(path.stat().st_size < 16_000_000 for path in (tmp_path / "out").iterdir())
