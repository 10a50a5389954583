"""A mask says what is made anew; the rest stays, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import make_tiny

from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import make_plan
from sfumato.tasks.create.run import create


@pytest.fixture
def inpaint(run):
    """Inpaint a picture, both given as arrays; returns the result as an array, and stderr."""

    def call(model, values, hidden, *words, output="o.png"):
        Image.fromarray(values).save("s.png")
        Image.fromarray(hidden.astype(np.uint8) * 255).save("m.png")
        files = "--from", "s.png", "--mask", "m.png", "--output", output
        code, _, err = run("create", "x", "--model", model, "--seed", 1, *files, *words)
        assert code == 0, err
        with Image.open(output) as picture:
            return np.asarray(picture), err

    return call


def box(tall, wide, rows, columns):
    hidden = np.zeros((tall, wide), bool)
    hidden[rows, columns] = True
    return hidden


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("values", "hidden"),
    [
        (noise(16, 16, 3), box(16, 16, slice(4, 10), slice(2, 12))),
        (noise(13, 18, 3), box(13, 18, slice(9, 13), slice(14, 18))),
    ],
    ids=["whole blocks", "any size"],
)
def test_pixels_outside_the_mask_are_those_of_the_source(inpaint, run, tiny, values, hidden):
    made, _ = inpaint(tiny, values, hidden)
    assert np.array_equal(made[~hidden], values[~hidden])
    assert not np.array_equal(made[hidden], values[hidden])
    assert run("create", "--again", "o.png", "--output", "p.png")[0] == 0
    assert Path("o.png").read_bytes() == Path("p.png").read_bytes()


def test_transparent_pixels_outside_the_mask_stay_transparent(inpaint, tiny):
    values, hidden = noise(64, 64, 4), box(64, 64, slice(8, 24), slice(8, 24))
    made, _ = inpaint(tiny, values, hidden, "--steps", 2)
    assert made.shape == values.shape
    assert (made == values)[~hidden].all(), "colors and transparency, bit for bit"
    assert (made[hidden][:, 3] == 255).all(), "what is made anew is opaque"
    flat, err = inpaint(tiny, values, hidden, "--steps", 2, output="b.jpg")
    assert flat.shape == (64, 64, 3) and "JPEG also changes" in err


def test_an_inpainting_network_also_works_without_a_mask(inpaint, run, tmp_path):
    folder = make_tiny(tmp_path / "fill", in_channels=9)
    inpaint(folder, noise(16, 16, 3), np.ones((16, 16), bool))
    assert run("create", "x", "--model", folder, "--output", "p.png")[0] == 0


@pytest.mark.parametrize(("wide", "tall"), [(128, 96), (250, 130)])
def test_a_model_with_an_upscaler_inpaints_at_its_own_size(inpaint, wide, tall):
    """At 256 pixels, a network of 64 pixels takes ten times as long, and draws fragments."""
    values, hidden = noise(tall, wide, 3), box(tall, wide, slice(10, 50), slice(20, 90))
    made, _ = inpaint("icons", values, hidden, "--steps", 2)
    assert np.array_equal(made[~hidden], values[~hidden])
    assert not np.array_equal(made[hidden], values[hidden])
    plan = make_plan(CreateOptions(source="s.png", mask="m.png"), load("icons"))
    assert max(plan.size) == 64 and plan.enlarged == 1 and plan.shown == (wide, tall)
    assert plan.start.hidden.shape == plan.size[::-1]
    assert plan.start.replaced.sum() == hidden.sum()


def test_a_photo_larger_than_the_upscaler_makes_is_inpainted(inpaint):
    plan_values, hidden = noise(1200, 40, 3), box(1200, 40, slice(0, 300), slice(0, 40))
    Image.fromarray(plan_values).save("s.png")
    Image.fromarray(hidden.astype(np.uint8) * 255).save("m.png")
    plan = make_plan(CreateOptions(source="s.png", mask="m.png"), load("icons"))
    assert plan.enlarged == 2 and plan.shown == (40, 1200)


def test_at_full_strength_only_the_size_is_kept(tiny, tmp_path):
    model = load(str(tiny))
    made = []
    for color in ("black", "white"):
        Image.new("RGB", (24, 16), color).save(tmp_path / f"{color}.png")
        options = CreateOptions(source=str(tmp_path / f"{color}.png"), strength=1.0, seed=3)
        made.append(create("a fox", options, model)[0].picture)
    plain = create("a fox", CreateOptions(size=(24, 16), seed=3), model)[0].picture
    assert made[0].tobytes() == made[1].tobytes() == plain.tobytes()
