"""Pictures of every kind that people have, and files that are none."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from sfumato import image
from sfumato.data import photo
from sfumato.errors import PictureError
from sfumato.runtime import atomic

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "HSV"]


@pytest.mark.parametrize("mode", MODES)
def test_modes(tmp_path, mode):
    base = Image.new("RGB", (5, 3), (200, 100, 50))
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "I", "F", "I;16") else "x.png")
    if mode == "HSV":
        base.save(path)
    elif mode == "I;16":
        Image.fromarray(np.full((3, 5), 40000, np.uint16)).save(path)
    else:
        base.convert(mode).save(path)
    picture = image.read(path)
    assert (picture.mode, picture.size) == ("RGB", (5, 3))
    assert image.to_tensor(picture).isfinite().all()
    if mode == "I;16":
        assert picture.getpixel((0, 0)) == (156, 156, 156)


def test_exif_rotation_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "r.jpg", exif=exif)
    assert image.read(tmp_path / "r.jpg").size == (4, 8)
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "t.png")
    assert image.read(tmp_path / "t.png").getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_picture(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.png", "text.png", "empty.png", "missing.png"):
        with pytest.raises(PictureError):
            image.read(tmp_path / name)
    monkeypatch.setattr(image, "MAX_PIXELS", 100)
    with pytest.raises(PictureError, match="64x64"):
        image.read(tmp_path / "a.png")


def test_postscript_is_not_run_whatever_it_is_named(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(PictureError, match="its format is not known"):
        image.read(tmp_path / "a.png")


def test_one_infinite_value_is_one_white_pixel(tmp_path):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    for found in (np.asarray(image.read(tmp_path / "a.tif"))[..., 0], photo.read(tmp_path / "a.tif").values[..., 0]):
        assert (found[0, 0], found[4, 4]) == (255, 128)


def test_bytes_round_trip():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(image.to_bytes(image.from_bytes(values)), values)


def test_atomic_leaves_nothing_behind(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_keeps_links_and_rights_and_takes_long_names(tmp_path):
    target, link = tmp_path / "x.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    with atomic(link) as scratch:
        scratch.write_text("new")
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    before = os.umask(0o077)
    try:
        with atomic(tmp_path / f"{'x' * 246}.txt") as scratch:
            scratch.write_text("private")
    finally:
        os.umask(before)
    assert (tmp_path / f"{'x' * 246}.txt").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match=r"x cannot be written: .*full"), atomic(tmp_path / "x"):
        raise SafetensorError("the disk is full")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [np.linspace(0, 1, 16, dtype=np.float32), np.linspace(0, 900, 16, dtype=np.float32)])
def test_numbers_are_as_bright_as_their_largest(tmp_path, values):
    Image.fromarray(values[None]).save(tmp_path / "a.tif")
    assert np.asarray(image.read(tmp_path / "a.tif"))[0, :, 0].tolist() == list(range(0, 256, 17))
