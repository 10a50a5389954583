"""Odd picture files: read with what they hold, written back without loss, refused in one
sentence.
"""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import sfumato
from sfumato import image
from sfumato.data.exif import ORIENTATION
from sfumato.data.photo import Photo, read, write
from sfumato.errors import PictureError
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.options import RestoreOptions

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 14, 3), np.uint8)
GRAY16 = RNG.integers(0, 65536, (9, 14), np.uint16)


def made(mode):
    """A picture of a mode."""
    picture = Image.fromarray(RGB)
    if mode == "I;16":
        return Image.fromarray(GRAY16)
    if mode == "F":
        return Image.fromarray(RGB[..., 0].astype(np.float32) * 3)
    if mode in ("RGBA", "LA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.fromarray(RGB[..., 1]))
        return picture
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("largest", "mean"), [(1.0, 255 * 0.5), (1.02, 255 * 0.51), (200.0, 100.0), (510.0, 255 * 0.5)]
)
def test_floating_point_values_keep_their_brightness(tmp_path, largest, mean):
    """Values of 0 to 1 and of 0 to 255 are not stretched; larger ones are scaled down."""
    values = np.linspace(0, largest, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "f.tiff")
    photo = read(tmp_path / "f.tiff")
    assert abs(float(photo.values.mean()) - mean) < 1
    assert "floating-point values of 0 to" in photo.notes[0]


def saved(picture, path, **extra):
    picture.save(path, **extra)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix", "channels", "bits", "clear", "noted"),
    [
        ("RGB", ".png", 3, 8, False, False),
        ("L", ".png", 1, 8, False, False),
        ("RGBA", ".png", 3, 8, True, False),
        ("LA", ".png", 1, 8, True, False),
        ("P", ".png", 3, 8, False, True),
        ("1", ".png", 1, 8, False, True),
        ("I;16", ".png", 1, 16, False, False),
        ("F", ".tiff", 1, 8, False, True),
        ("CMYK", ".jpg", 3, 8, False, True),
        ("YCbCr", ".jpg", 3, 8, False, False),
        ("RGB", ".bmp", 3, 8, False, False),
        ("RGB", ".webp", 3, 8, False, False),
    ],
)
def test_modes(mode, suffix, channels, bits, clear, noted, tmp_path):
    path = saved(
        made(mode), tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {})
    )
    photo = read(path)
    assert photo.values.shape == (9, 14, channels)
    assert photo.values.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert (photo.alpha is not None) == clear
    assert bool(photo.notes) == noted
    write(photo.with_values(photo.stored(photo.frame())), tmp_path / "b.png")
    again = read(tmp_path / "b.png")
    assert (again.values == photo.values).all(), "to the frame and back changes nothing"
    assert (again.alpha is None and photo.alpha is None) or (again.alpha == photo.alpha).all()


def test_kept_pixels_are_bitwise_the_same(tmp_path):
    for pixels in (RGB, GRAY16[..., None]):
        photo = Photo(pixels)
        keep = RNG.random((9, 14)) < 0.5
        noisy = photo.stored(photo.frame() + 0.3 * RNG.normal(size=photo.frame().shape))
        changed = photo.with_values(np.where(keep[..., None], pixels, noisy))
        write(changed, tmp_path / "a.png")
        back = read(tmp_path / "a.png").values
        assert (back[keep] == pixels[keep]).all()
        assert (back[~keep] != pixels[~keep]).any()


def test_profile_orientation_and_frames(tmp_path):
    profile = b"not a real profile, but kept"
    assert (
        read(saved(Image.fromarray(RGB), tmp_path / "a.png", icc_profile=profile)).profile
        == profile
    )
    write(Photo(RGB, profile=profile), tmp_path / "b.png")
    assert read(tmp_path / "b.png").profile == profile
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(saved(Image.fromarray(RGB), tmp_path / "c.png", exif=exif))
    assert turned.size == (9, 14)
    assert "orientation" in turned.notes[0]
    frames = [Image.fromarray(np.roll(RGB, k, 0)) for k in range(3)]
    frames[0].save(tmp_path / "d.gif", save_all=True, append_images=frames[1:])
    assert "first of 3 frames" in " ".join(read(tmp_path / "d.gif").notes)
    assert read(saved(Image.fromarray(RGB), tmp_path / "e.jpg", progressive=True)).values.shape == (
        9,
        14,
        3,
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(size, tmp_path):
    photo = read(saved(Image.new("RGB", size, (9, 8, 7)), tmp_path / "a.png"))
    assert photo.size == size
    assert photo.frame().shape == (3, size[1], size[0])


def test_formats_that_cannot_keep_all_say_so(tmp_path):
    clear = Photo(RGB, alpha=RGB[..., 0])
    assert "transparency" in write(clear, tmp_path / "a.jpg")[0]
    assert "16 bits" in write(Photo(GRAY16[..., None]), tmp_path / "b.jpg")[0]
    assert write(clear, tmp_path / "a.webp") == []
    assert (read(tmp_path / "a.webp").values == RGB).all()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colored = Photo(RGB, profile=profile)
    assert write(colored, tmp_path / "c.bmp") == ["BMP cannot store the color profile"]
    assert write(colored, tmp_path / "c.png") == []


def bomb():
    data = io.BytesIO()
    Image.new("1", (30000, 30000)).save(data, format="PNG")
    return data.getvalue()


def test_hostile_files(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(whole, format="PNG")
    for data, message in (
        (b"", "cannot be read"),
        (b"no picture", "cannot be read"),
        (whole.getvalue()[:900], "cannot be read"),
        (bomb(), "pixels"),
    ):
        with pytest.raises(PictureError, match=message):
            read(data)
    with pytest.raises(PictureError, match="does not exist"):
        read(tmp_path / "none.png")
    with pytest.raises(PictureError, match="ends in one of"):
        write(Photo(RGB), tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_deep_color_is_noted(tmp_path):
    """A PNG of 16 bits in three channels, which Pillow reads as 8, written by hand."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + bytes(range(12)))
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    photo = read(tmp_path / "deep.png")
    assert photo.values.dtype == np.uint8
    assert "16 bits" in photo.notes[0]


@pytest.mark.parametrize("quality", [5, 40, 75, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=quality)
    assert read(tmp_path / "a.jpg").quality == quality
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").quality is None


def test_date_camera_and_resolution_stay(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Leica", "1999:12:31 23:59:59"
    path = saved(Image.fromarray(RGB), tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    photo = read(path)
    assert photo.values.shape == (14, 9, 3), "turned upright"
    for name in ("b.png", "b.jpg", "b.webp"):
        lost = ["WEBP cannot store the resolution"] if name == "b.webp" else []
        assert write(photo, tmp_path / name) == lost
        with Image.open(tmp_path / name) as back:
            found = back.getexif()
            assert (found[0x010F], found[0x0132]) == ("Leica", "1999:12:31 23:59:59")
            assert 0x0112 not in found, "it is upright now"
            assert name == "b.webp" or [round(float(n)) for n in back.info["dpi"]] == [300, 300]
    assert write(photo, tmp_path / "b.bmp") == ["BMP cannot store the EXIF data"]
    tiff = read(
        saved(
            Image.fromarray(RGB),
            tmp_path / "a.tif",
            tiffinfo={0x010F: "Leica", 0x0132: "1999:12:31 23:59:59"},
        )
    )
    write(tiff, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as back:
        assert dict(back.getexif()) == {0x010F: "Leica", 0x0132: "1999:12:31 23:59:59"}, (
            "of a TIFF's tags what says of the picture"
        )


def test_a_result_may_be_larger_than_what_is_read_from_strangers(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert write(Photo(RGB), tmp_path / "a.png") == []
    assert Image.MAX_IMAGE_PIXELS == 20


def test_a_gray_profile_does_not_go_with_colors():
    gray = Photo(RGB[..., :1], profile=b"gray")
    assert gray.with_values(RGB[..., :1]).profile == b"gray"
    assert gray.with_values(RGB).profile is None


def test_a_jpeg_may_number_its_tables_as_it_likes(tmp_path):
    Image.new("L", (16, 16), 90).save(tmp_path / "a.jpg", quality=80)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[data.index(b"\xff\xdb") + 4] = 2  # of the quantization table
    data[data.index(b"\xff\xc0") + 12] = 2  # of the component that uses it
    (tmp_path / "a.jpg").write_bytes(data)
    assert read(tmp_path / "a.jpg").quality == 80


def test_a_damaged_second_page_is_one_sentence(tmp_path):
    page = Image.new("RGB", (8, 8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    second = int.from_bytes(data[after : after + 4], "little")
    data[second : second + 2] = b"\0\0"  # a page without its size
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(PictureError, match=r"a\.tif cannot be read"):
        read(tmp_path / "a.tif")


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    """An orientation to turn by, beside a resolution that is text: Pillow fails in writing the tags
    of the turned picture.
    """
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    path = saved(Image.fromarray(RGB), tmp_path / "a.jpg", quality=95, exif=exif)
    with pytest.raises((struct.error, TypeError)):
        ImageOps.exif_transpose(Image.open(path))
    assert image.read(path).size == (14, 9)
    assert read(path).values.shape == (9, 14, 3)


def test_what_is_transparent_in_a_mask_is_black(tmp_path):
    strokes = np.zeros((9, 14, 4), np.uint8)
    strokes[2:4, 3:6] = 255
    for mode in ("RGBA", "LA"):
        mask = image.read_mask(saved(Image.fromarray(strokes).convert(mode), tmp_path / "m.png"))
        assert (np.asarray(mask) >= 128).sum() == 6, mode
    assert (
        np.asarray(
            image.read_mask(
                saved(Image.fromarray(strokes[..., 0]).convert("1"), tmp_path / "m.png")
            )
        )
        >= 128
    ).sum() == 6
    assert (np.asarray(image.read(tmp_path / "m.png")) >= 128).any()


@pytest.mark.parametrize(
    "values", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_no_photo(values):
    with pytest.raises(PictureError, match="a photo is an array"):
        Photo(values)


def test_texts_and_xmp_are_kept(tmp_path):
    """Of a PNG and of a JPEG, into each other; what a format has no place for is noted."""
    info = PngImagePlugin.PngInfo()
    texts = {"parameters": "a cat\nSteps: 20", "Copyright": "Jane Doe"}
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
        'xmp:Rating="5"/></x:xmpmeta>'
    )
    info.add_itxt("XML:com.adobe.xmp", packet)
    Image.new("RGB", (24, 16), "red").save(tmp_path / "a.png", pnginfo=info)
    held = read(tmp_path / "a.png")
    assert write(held, tmp_path / "b.png", "{}") == []
    with Image.open(tmp_path / "b.png") as made:
        assert {k: made.text[k] for k in texts} == texts
        assert made.text["XML:com.adobe.xmp"] == packet.replace(
            'tiff:Orientation="6"', 'tiff:Orientation="1"'
        )
        assert made.text["sfumato"] == "{}"
    (note,) = write(held, tmp_path / "b.jpg")
    assert "parameters, Copyright" in note
    assert b"xmp:Rating" in read(tmp_path / "b.jpg").xmp
    Image.new("RGB", (24, 16), "red").save(tmp_path / "c.jpg", comment=b"hello")
    for name in ("d.jpg", "d.png"):
        assert write(read(tmp_path / "c.jpg"), tmp_path / name) == []
        assert read(tmp_path / name).texts == {"Comment": "hello"}
    (note,) = write(read(tmp_path / "c.jpg"), tmp_path / "d.webp")
    assert "Comment" in note


def test_exif_gives_the_size_that_a_picture_has_now(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Cam"
    exif.get_ifd(0x8769).update({0xA002: 24, 0xA003: 16, 0x9003: "2020:01:01 00:00:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    Image.new("RGB", (24, 16), "red").save(tmp_path / "a.jpg", exif=exif)
    held = read(tmp_path / "a.jpg")
    write(held.with_values(np.zeros((32, 48, 3), np.uint8)), tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as made:
        found = made.getexif()
        assert (found[0x010F], found.get_ifd(0x8769)[0xA002], found.get_ifd(0x8769)[0xA003]) == (
            "Cam",
            48,
            32,
        )
        assert found.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
        assert found.get_ifd(0x8825)[1] == "N"


def disc(under):
    """A white disc on nothing; the color under clear pixels is what some program left there."""
    y, x = np.mgrid[:48, :48]
    alpha = (np.clip(18.5 - np.hypot(y - 23.5, x - 23.5), 0, 1) * 255).round().astype(np.uint8)
    return Photo(np.where(alpha[..., None] > 0, 255, under).astype(np.uint8).repeat(3, 2), alpha)


@pytest.mark.parametrize(
    "options",
    [{"denoise": 15.0}, {"denoise": "auto"}, {"enlarge": 2}, {"fill_box": (20, 20, 4, 4)}],
    ids=str,
)
def test_what_nobody_sees_has_no_influence(options):
    dark, light = (restore(disc(under), RestoreOptions(**options)).photo for under in (0, 255))
    seen = dark.alpha > 12
    assert dark.values[seen].min() > 250, "no dark rim"
    assert np.array_equal(dark.values[seen], light.values[seen])
    if "enlarge" not in options:
        assert (dark.values[disc(0).alpha == 0] == 0).all(), (
            "what is clear keeps the file's own values"
        )


def test_visible_colors_reach_under_what_is_clear():
    photo = disc(0)
    assert (photo.opaque().values == 255).all()
    assert photo.opaque().alpha is photo.alpha
    plain = Photo(photo.values)
    assert plain.opaque() is plain


def test_a_photo_is_a_path_a_picture_or_an_array(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    picture = Image.fromarray(values)
    picture.save(tmp_path / "a.png", dpi=(300, 300))
    options = sfumato.RestoreOptions(fill_box=(4, 4, 6, 6))
    made = sfumato.restore(tmp_path / "a.png", options)
    with Image.open(tmp_path / "a.png") as opened:
        given = (opened, values, (tmp_path / "a.png").read_bytes())
        for each in given:
            again = sfumato.restore(each, options).photo
            assert np.array_equal(again.values, made.photo.values)
            assert np.array_equal(again.alpha, values[..., 3])
    gray = sfumato.restore(values[..., 0], options).photo
    assert gray.values.shape == (20, 30, 1)
    assert made.save(tmp_path / "made.png") == []
    with Image.open(tmp_path / "made.png") as saved:
        assert saved.mode == "RGBA" and round(saved.info["dpi"][0]) == 300
    deep = sfumato.restore(values.astype(np.uint16) * 257, options).photo
    assert np.array_equal(deep.alpha, values[..., 3]) and deep.values.dtype == np.uint16
    for wrong in (None, {"a": 1}, values.astype(float), values[:, :, :2], np.zeros((0, 4, 3))):
        with pytest.raises(PictureError, match="a photo is"):
            sfumato.restore(wrong, options)


def test_a_tiff_keeps_date_place_and_camera(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif.update({271: "Canon", 306: "2020:01:02 03:04:05", 256: 999, 273: 12345})
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0xA002: 40})
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
    photo = read(tmp_path / "a.jpg")
    assert write(photo, tmp_path / "b.tif") == []
    again = read(tmp_path / "b.tif")
    assert np.array_equal(again.values, photo.values) and again.notes == ()
    assert write(again, tmp_path / "c.tif") == write(again, tmp_path / "c.jpg") == []
    for name in ("b.tif", "c.tif", "c.jpg"):
        with Image.open(tmp_path / name) as opened:
            found = opened.getexif()
            assert opened.size == (40, 30) and found[271] == "Canon"
            assert found.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
            assert found.get_ifd(0x8825)[2] == (51.0, 30.0, 0.0)


def test_a_given_picture_is_not_changed_and_may_be_damaged(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
    options = RestoreOptions(fill_box=(2, 2, 4, 4))
    with Image.open(tmp_path / "a.jpg") as opened:
        sizes = [restore(opened, options).photo.size for _ in range(2)]
        assert sizes == [(20, 30)] * 2 and opened.getexif()[ORIENTATION] == 6
    Image.fromarray(values).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:300])
    with Image.open(tmp_path / "b.png") as cut, pytest.raises(PictureError, match="cannot be read"):
        restore(cut, options)


def test_metadata_too_long_for_a_jpeg_are_left_out_with_a_note(tmp_path):
    """A finished restoration is written, whatever was stored in the photo."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    held = Photo(
        np.zeros((4, 6, 3), np.uint8),
        exif=exif.tobytes(),
        texts={"Comment": "c" * 80_000},
        xmp=b"<x>" + b" " * 80_000 + b"</x>",
    )
    notes = write(held, tmp_path / "a.jpg")
    assert len(notes) == 3 and {"EXIF", "comment", "XMP"} <= set(" ".join(notes).split())
    assert read(tmp_path / "a.jpg").exif is None
    assert not write(replace(held, exif=None), tmp_path / "a.png")
    with pytest.raises(PictureError, match="cannot be written"):
        write(replace(held, texts={"ключ": "x"}), tmp_path / "b.png")


def test_values_beyond_16_bits_and_a_transparent_gray(tmp_path):
    deep = np.array([[100_000, 70_000], [-5, 65_535]], np.int32)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    made = read(tmp_path / "deep.tif")
    assert made.values[..., 0].tolist() == [[65_535, 45_874], [0, 42_948]]
    scaled = "values of 0 to 100000 were scaled to 16 bits"
    assert made.notes == ("values below 0 were clipped", scaled)
    bytes_ = np.asarray(image.read(tmp_path / "deep.tif"))[..., 0]
    assert np.abs(bytes_ - made.values[..., 0] / 257).max() <= 1
    values = np.array([[0, 500], [500, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=500)
    made = read(tmp_path / "clear.png")
    assert made.alpha.tolist() == [[255, 0], [0, 255]] and not made.notes


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_none(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    made = read(tmp_path / "a.jpg")
    assert made.size == (6, 4) and not made.notes


def test_the_orientation_in_xmp_may_have_single_quotes(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", xmp=b"<x tiff:Orientation='6'/>")
    assert read(tmp_path / "a.jpg").xmp == b"<x tiff:Orientation='1'/>"
