"""The bundled model: opens here and in diffusers, makes the same picture, and has learnt something."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tests.parity.test_sampler import same_picture

from sfumato.hub.load import BUNDLED, load
from sfumato.tasks.create import create
from sfumato.tasks.options import CreateOptions

ICONS = BUNDLED / "icons"


@pytest.fixture(scope="module")
def icons():
    return load("icons")


@pytest.mark.filterwarnings("ignore")
def test_diffusers_makes_the_same_picture():
    ours, theirs = same_picture(ICONS)
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 10


def colors(prompt, model, count=6):
    """Mean red, green and blue of the ink (what is not white) of some pictures."""
    made = create(prompt, CreateOptions(seed=1, count=count), model)
    pixels = np.concatenate([np.asarray(m.picture).reshape(-1, 3) for m in made]).astype(float)
    return pixels[pixels.min(1) < 230].mean(0)


def test_colors_follow_the_text(icons):
    red, blue = colors("a red heart", icons), colors("a blue heart", icons)
    assert red[0] > blue[0] + 20
    assert blue[2] > red[2] + 20


def test_batch_equals_singles(icons):
    options = CreateOptions(seed=11, count=8)
    together = create("rocket, Noto emoji", options, icons)
    for k in (0, 3, 7):
        alone = create("rocket, Noto emoji", CreateOptions(seed=11 + k), icons)[0]
        assert abs(np.asarray(alone.picture).astype(int) - np.asarray(together[k].picture).astype(int)).max() <= 1


def test_style_is_added(icons):
    made = create("a rocket", CreateOptions(seed=1, style="noto"), icons)[0]
    other = create("a rocket", CreateOptions(seed=1, style="sketch"), icons)[0]
    assert made.settings["style"] == "noto"
    assert create("a rocket", CreateOptions(seed=1), icons)[0].settings["style"] == "fluent-flat", "what was added is written down"
    assert create("a rocket, Noto emoji", CreateOptions(seed=1), icons)[0].settings["style"] is None
    assert np.asarray(made.picture).astype(int).mean() != np.asarray(other.picture).astype(int).mean()


def test_size_of_what_is_shipped():
    total = sum(p.stat().st_size for p in ICONS.rglob("*") if p.is_file())
    assert total < 62e6
    assert (ICONS / "README.md").exists(), "a model card"
    assert (ICONS / "attribution.csv").exists(), "attributions"


def test_free_licences_only():
    path = Path(__file__).parents[2] / "recipes" / "icons" / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    kept = {line.rsplit(",", 2)[1] for line in (ICONS / "attribution.csv").read_text().splitlines()[1:]}
    assert kept
    assert all(prepare.is_free(licence) for licence in kept), kept
    assert not any(prepare.is_free(licence) for licence in ("CC-BY-SA-4.0", "GPL-2", "CC-BY-NC-4.0"))
