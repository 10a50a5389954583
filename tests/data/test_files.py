"""Pictures of every kind that people have, and files that are none."""

import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors import SafetensorError
from safetensors.torch import save_file

from sfumato import image, metadata
from sfumato.data import photo
from sfumato.errors import ModelError, PictureError
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

    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called")
    )
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(PictureError, match="its format is not known"):
        image.read(tmp_path / "a.png")


def test_one_infinite_value_is_one_white_pixel(tmp_path):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    for found in (
        np.asarray(image.read(tmp_path / "a.tif"))[..., 0],
        photo.read(tmp_path / "a.tif").values[..., 0],
    ):
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


@pytest.mark.parametrize(
    "values", [np.linspace(0, 1, 16, dtype=np.float32), np.linspace(0, 900, 16, dtype=np.float32)]
)
def test_numbers_are_as_bright_as_their_largest(tmp_path, values):
    Image.fromarray(values[None]).save(tmp_path / "a.tif")
    assert np.asarray(image.read(tmp_path / "a.tif"))[0, :, 0].tolist() == list(range(0, 256, 17))


def wide_profile():
    """A profile of red, green and blue that lie farther apart than sRGB's, of gamma 2.2, written
    byte by byte (ICC.1:2001-04).
    """

    def number(x):
        return struct.pack(">i", round(x * 65536))

    def place(*xyz):
        return b"XYZ \0\0\0\0" + b"".join(map(number, xyz))

    name = b"Wide test"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": place(0.9642, 1, 0.8249),
        b"rXYZ": place(0.60974, 0.31111, 0.01947),
        b"gXYZ": place(0.20528, 0.62567, 0.06087),
        b"bXYZ": place(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = (
        struct.pack(">I", start + len(body))
        + b"test"
        + struct.pack(">I", 0x02100000)
        + b"mntrRGB XYZ "
    )
    head += (
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
        + b"acspAPPL"
        + bytes(24)
        + number(0.9642)
        + number(1)
        + number(0.8249)
    )
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def test_color_profiles_are_followed_on_reading(tmp_path):
    Image.new("RGB", (8, 8), (40, 190, 60)).save(tmp_path / "wide.png", icc_profile=wide_profile())
    assert image.read(tmp_path / "wide.png").getpixel((2, 2)) == (0, 191, 40)
    clear = Image.new("RGBA", (8, 8), (40, 190, 60, 255))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png", icc_profile=wide_profile())
    assert image.read(tmp_path / "clear.png").getpixel((2, 2)) == (0, 191, 40)
    assert image.read(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for k, profile in enumerate((srgb, b"no profile at all")):
        Image.new("RGB", (8, 8), (40, 190, 60)).save(tmp_path / f"{k}.png", icc_profile=profile)
        assert image.read(tmp_path / f"{k}.png").getpixel((2, 2)) == (40, 190, 60)


def test_what_a_mask_keeps_keeps_its_profile(run, tiny, tmp_path):
    Image.new("RGB", (16, 16), (40, 190, 60)).save(
        tmp_path / "wide.png", icc_profile=wide_profile()
    )
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "m.png")
    words = (
        "create",
        "x",
        "--model",
        tiny,
        "--from",
        "wide.png",
        "--mask",
        "m.png",
        "--seed",
        1,
        "--steps",
        2,
    )
    for name in ("out.png", "out.webp"):
        assert run(*words, "--output", name)[0] == 0
        with Image.open(tmp_path / name) as made:
            assert made.info["icc_profile"] == wide_profile()
            assert (np.asarray(made.convert("RGB"))[:, :8] == (40, 190, 60)).all()
    assert run("create", "--again", "out.png", "--output", "again.png")[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()


TEXT = (
    "a café, 猫 (red:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, "
    "Seed: 5, Size: 64x64"
)
COMMENTS = {
    "big-endian": b"UNICODE\0" + TEXT.encode("utf-16-be"),
    "little-endian": b"UNICODE\0" + TEXT.encode("utf-16-le"),
    "with a mark": b"UNICODE\0" + TEXT.encode("utf-16"),
    "UTF-8": b"UNICODE\0" + TEXT.encode(),
    "no code": bytes(8) + TEXT.encode(),
    "nothing in front": TEXT.encode(),
}


@pytest.mark.parametrize("form", COMMENTS)
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_comments_of_other_programs(tmp_path, form, suffix):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = COMMENTS[form]
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{suffix}", exif=exif)
    assert metadata.read(tmp_path / f"a.{suffix}") == (None, TEXT)
    assert metadata.comment_text(b"ASCII\0\0\0a cat") == "a cat"
    assert metadata.comment_text(b"UNICODE\0") is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_picture(bad):
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 1, 1] = bad
    with pytest.raises(ModelError, match="not finite"):
        image.to_pictures(x)
    with pytest.raises(ModelError, match="not finite"):
        photo.Photo(np.zeros((4, 4, 3), np.uint8)).stored(x[0].numpy())


def test_a_new_file_has_the_usual_mode_whoever_wrote_it(tmp_path):
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    save = {"a": torch.zeros(2)}
    with atomic(tmp_path / "new.safetensors") as scratch:
        save_file(save, scratch)
    assert (tmp_path / "new.safetensors").stat().st_mode == usual
    (tmp_path / "new.safetensors").chmod(0o640)
    with atomic(tmp_path / "new.safetensors") as scratch:
        save_file(save, scratch)
    assert (tmp_path / "new.safetensors").stat().st_mode & 0o777 == 0o640


def test_an_error_of_the_disk_names_the_file(tmp_path):
    def full(path):
        with atomic(path):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        full(tmp_path / "page.html")
    assert raised.value.filename == str(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_cannot_be_read_are_listed(run, tmp_path):
    """A folder from a phone or a camera is not restored in part without a word."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (12, 12), "red").save(folder / "a.tif")
    Image.new("RGB", (12, 12), "red").save(folder / "d.nef", "TIFF")  # a small preview inside
    (folder / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "c.psd").write_bytes(b"8BPS")
    (folder / "a.psd").write_bytes(b"8BPS")  # the source of a.tif
    (folder / "license.pdf").write_bytes(b"%PDF-1.7")
    code, _, err = run("restore", folder, "--denoise", 5, "--output", "out")
    assert code == 3 and (tmp_path / "out/a.tif").exists()
    for name, suffix in (("b.HEIC", ".heic"), ("c.psd", ".psd"), ("d.nef", ".nef")):
        assert f"{name} cannot be read as a picture: {suffix} files are not supported" in err
    assert "a.psd" not in err and "pdf" not in err
    code, _, err = run("index", folder, "--space", "icons", "--output", "ix")
    assert code == 3 and "left out: d.nef: .nef files are not supported; convert them" in err
