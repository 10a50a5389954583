"""Experiments with a picture of one's own."""

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from sfumato.errors import OptionError
from sfumato.space.pixels import Pixels
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.explain.probe import DAMAGES, ProbeOptions, Shown, probe


@pytest.fixture(scope="module")
def icons():
    return load_model(CreateOptions())


@pytest.fixture(scope="module")
def photo():
    picture = Image.new("RGB", (120, 90), (150, 190, 235))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 55, 120, 90), fill=(90, 130, 60))
    pen.ellipse((30, 20, 80, 70), fill=(200, 60, 40))
    return picture


def shown(picture, model, **asked):
    events = probe(picture, ProbeOptions(**asked), model)
    return [event for event in events if isinstance(event, Shown)]


def test_a_picture_is_coded_and_guessed_at(icons, photo):
    found = shown(photo, icons, levels=4)
    assert [one.what for one in found].count("channel") == 16
    guesses = [one.about for one in found if one.what == "guess"]
    assert len(guesses) == 4
    sigmas = [about["sigma"] for about in guesses]
    assert sigmas == sorted(sigmas, reverse=True)
    # what is guessed is better than nothing, which costs 1
    assert all(0 < about["error"] < 1 for about in guesses)


def test_a_gray_model_sees_luminance(photo, monkeypatch):
    seen = []
    pixels = Pixels(1)
    monkeypatch.setattr(Pixels, "encode", lambda self, x: seen.append(x) or x[:, :1])
    model = replace(load_model(CreateOptions()), space=pixels)
    list(probe(Image.new("RGB", (64, 64), "red"), ProbeOptions(levels=0), model))
    monkeypatch.undo()
    assert seen[0].shape[1] == 3, "the space itself converts to gray"
    assert float(pixels.encode(seen[0]).mean()) == pytest.approx(2 * 0.299 - 1, abs=1e-3)


def test_channels_change_the_picture(icons, photo):
    same, *_ = (one for one in shown(photo, icons, levels=0) if one.what == "decoded")
    kept = shown(photo, icons, levels=0, channels=[1.0] * 16)[-1]
    other = shown(photo, icons, levels=0, channels=[0.0] + [1.0] * 15)[-1]
    assert kept.picture.tobytes() == same.picture.tobytes()
    assert other.picture.tobytes() != same.picture.tobytes()
    with pytest.raises(OptionError, match="16 channels, not 3"):
        shown(photo, icons, channels=[1.0] * 3)


@pytest.mark.parametrize("damage", DAMAGES)
def test_equal_pictures_have_no_decibels(icons, damage):
    """JSON has no infinity."""
    for picture in (Image.new("RGB", (40, 40)), Image.new("L", (700, 40), 90)):
        before = picture.size
        found = shown(picture, None, damage=damage)
        assert all(
            one.about.get("psnr", 0) is None or one.about.get("psnr", 0) < 200 for one in found
        )
        assert picture.size == before
    with pytest.raises(OptionError, match="8x40 pixels"):
        shown(Image.new("RGB", (8, 40)), None, damage=damage)


def test_training_goes_on_between_two_pictures(icons, photo):
    tried = probe(photo, ProbeOptions(levels=2), icons)
    for _ in tried:
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("channels", [[float("nan")] * 16, [float("inf")] * 16, [11.0] * 16])
def test_factors_are_numbers_near_1(channels):
    with pytest.raises(OptionError, match="channels"):
        ProbeOptions.build({"channels": channels})


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_idea_with_another_corruption(icons, photo, damage):
    found = {one.what: one for one in shown(photo, icons, damage=damage)}
    assert list(found) == ["picture", "measured", "restored", "difference"]
    if damage != "color":  # nobody can know the disk's
        assert found["restored"].about["psnr"] > found["measured"].about["psnr"]
    off = found["difference"].about["rms"]
    if damage == "noise":
        assert 45 < off < 55  # what was taken away is the noise that was added, of 50
    else:
        assert off < 15
