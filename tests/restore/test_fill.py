"""Holes, painted colors and scratches: what is not hidden stays as it is."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.restore.common import PHOTO, pictures, run

from sfumato.data.photo import Photo, read, write
from sfumato.denoiser.restorer import TILE
from sfumato.errors import OptionError
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import tone
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.options import RestoreOptions


@pytest.mark.parametrize("kind", ["RGB", "gray", "16 bits"])
def test_filling_changes_nothing_else(kind, repairer):
    photo = Photo(pictures(kind))
    made = restore(photo, RestoreOptions(fill_box=(10, 20, 30, 15)), repairer)
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[20:35, 10:40] = True
    assert (made.photo.values[~inside] == photo.values[~inside]).all()
    assert (made.photo.values[inside] != photo.values[inside]).any()
    assert made.report["largest_change_elsewhere"] == 0
    assert made.report["made_anew"] == pytest.approx(inside.mean(), abs=1e-6)


def test_scratches_are_where_the_network_sees_damage():
    """Here a stand-in takes white lines for damage, and all the rest for hardly any."""
    values = PHOTO // 2
    values[30, 20:90], values[10:70, 50] = 250, 250

    def damage(x):
        return torch.where(x > 0.9, 0.9, 0.05).amax(dim=1, keepdim=True)

    found = masks.scratches(Photo(values), damage)
    assert found[30, 20:90].all()
    assert found[10:70, 50].all()
    assert found.mean() < 3.5 * 130 / found.size
    assert not masks.scratches(Photo(np.full((40, 50, 3), 90, np.uint8)), damage).any()


def test_what_is_painted_is_found(repairer):
    values = PHOTO.copy()
    values[20:30, 40:60] = (250, 10, 5)
    found = masks.painted(Photo(values), "#ff0000")
    assert found[20:30, 40:60].all()
    assert found.mean() < 2 * 200 / found.size
    made = restore(Photo(values), RestoreOptions(fill_color="#ff0000"), repairer)
    assert (made.photo.values[~found] == values[~found]).all()
    with pytest.raises(OptionError, match="no pixel has the color #00ff00"):
        restore(Photo(values), RestoreOptions(fill_color="#00ff00"), repairer)


@pytest.mark.parametrize("width", [1000, 2100])
def test_a_thin_line_in_color_makes_a_gray_picture_no_print_in_one_tone(width):
    values = np.repeat(
        np.repeat(np.linspace(40, 220, width).astype(np.uint8)[None, :, None], 64, axis=0),
        3,
        axis=2,
    )
    values[31:33] = 220, 20, 20
    assert tone(Photo(values)) is None
    made = restore(Photo(values), RestoreOptions(denoise=5.0)).photo.values
    assert made[31, 500, 0] > 150 > made[31, 500, 1]


def test_a_scratch_goes_on_from_window_to_window():
    wide = 2 * TILE + 100
    values = np.full((24, wide, 1), 128, np.uint8)
    values[12, 20:-20], values[12, 40:60] = 148, 198  # weak, but for a part at its beginning
    found = masks.scratches(Photo(values), lambda x: 2.8 * (x[:, :1] - 0.01).clamp_min(0))
    assert found[12, 20:-20].all()
    assert found.any(axis=0).sum() == wide - 38, "and no farther"


def test_the_mask_is_written_to_be_edited_and_given_back(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    words = [tmp_path / "a.png", "--model", folder, "--fill-box", "5,6,8,9"]
    first = [*words, "--save-mask", "--output", tmp_path / "b.png"]
    assert run(capsys, monkeypatch, *first)[0] == 0
    with Image.open(tmp_path / "b-mask.png") as picture:
        mask = np.asarray(picture)
    wanted = np.zeros(PHOTO.shape[:2], np.uint8)
    wanted[6:15, 5:13] = 255
    assert (mask == wanted).all()
    again = [*words[:3], "--fill", tmp_path / "b-mask.png", "--output", tmp_path / "c.png"]
    assert run(capsys, monkeypatch, *again)[0] == 0
    with Image.open(tmp_path / "b.png") as one, Image.open(tmp_path / "c.png") as two:
        assert (np.asarray(one) == np.asarray(two)).all()
    wrong = [tmp_path / "a.png", "--denoise", "9", "--save-mask", "--output", tmp_path / "d.png"]
    code, _, err = run(capsys, monkeypatch, *wrong)
    assert (code, "needs a --fill option" in err) == (2, True)


def test_the_ghost_of_a_color_in_a_jpeg_is_taken_too(tmp_path):
    values = np.full((96, 96, 3), 200, np.uint8)
    values[40:46, 20:76] = (255, 0, 128)
    for name, quality in (("a.png", {}), ("a.jpg", {"quality": 60})):
        Image.fromarray(values).save(tmp_path / name, **quality)
    found = {n: masks.painted(read(tmp_path / n), "#ff0080") for n in ("a.png", "a.jpg")}
    seen = read(tmp_path / "a.jpg").values.astype(int)
    ghost = np.ptp(seen, axis=2) > 30
    assert (ghost & ~found["a.jpg"]).sum() == 0 < (ghost & ~found["a.png"]).sum()
    assert found["a.png"].sum() == 10 * 60 - 12, "grown by two pixels, but for the corners"
    more = masks.painted(read(tmp_path / "a.png"), "#ff0080", tolerance=210)
    assert more.all(), "gray is no farther than that in any channel"


def test_more_sensitivity_finds_more(tmp_path):
    def damage(y):
        return torch.linspace(0, 1, y.shape[-1]).expand(1, 1, *y.shape[-2:])

    photo = Photo(PHOTO)
    shares = [masks.scratches(photo, damage, s).mean() for s in (0.1, 0.5, 0.9)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1


def test_without_scratches_the_other_repairs_are_done(tmp_path, run):
    flat = np.full((48, 64, 1), 128.0) + np.random.default_rng(0).normal(0, 15, (48, 64, 1))
    photo = Photo(flat.clip(0, 255).astype(np.uint8))
    made = restore(photo, RestoreOptions(fill_scratches=True, denoise=15, sensitivity=0.1))
    assert made.report["made_anew"] == 0 and made.photo.values.std() < 5
    only = restore(photo, RestoreOptions(denoise=15)).photo
    assert np.array_equal(made.photo.values, only.values)
    with pytest.raises(OptionError, match="no scratches were found"):
        restore(photo, RestoreOptions(fill_scratches=True, sensitivity=0.1))
    write(photo, tmp_path / "a.png")
    code, out, _ = run("restore", tmp_path / "a.png", "--fill-scratches", "--denoise=15",
                       "--sensitivity", 0.1, "--output", tmp_path / "b.png")  # fmt: skip
    assert code == 0 and "inpainted 0.0%" in out


@pytest.mark.parametrize(("height", "patches"), [(12, False), (20, False), (32, True), (70, True)])
def test_the_margin_around_a_stroke_does_not_make_it_wide(height, patches):
    """A JPEG spreads the color of thin strokes; the network fills them, as it does in a PNG."""
    values = np.tile(PHOTO, (2, 2, 1))[:160, :160].copy()
    values[40 : 40 + height, 20:140] = (255, 0, 0)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=90)
    options = RestoreOptions(fill_color="#ff0000")
    made = restore(read(stream.getvalue()), options)
    assert (made.report.get("engine") == "patches") == patches
    assert made.report["made_anew"] > height * 120 / 160**2
