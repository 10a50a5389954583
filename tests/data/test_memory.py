"""Pictures in memory do what their files do."""

import io

import numpy as np
import pytest
from PIL import Image
from tests.restore.common import PHOTO

import sfumato
from sfumato import image
from sfumato.data.memory import png_of
from sfumato.data.photo import photo_of
from sfumato.data.rows import table_of
from sfumato.errors import OptionError, PictureError
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.restore.options import RestoreOptions

HIDDEN = np.zeros((48, 64), bool)
HIDDEN[10:20, 15:30] = True
FORMS = {
    "truth": lambda hidden: hidden,
    "uint8": lambda hidden: hidden.astype(np.uint8) * 255,
    "floats": lambda hidden: hidden.astype(np.float32),
    "channel": lambda hidden: hidden[..., None],
    "pillow": lambda hidden: Image.fromarray(hidden),
    "bytes": lambda hidden: png_of(hidden),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_in_memory_fills_as_its_file(form, tmp_path):
    Image.fromarray(HIDDEN).save(tmp_path / "m.png")
    photo = PHOTO[:48, :64]
    want = sfumato.restore(photo, RestoreOptions(fill=tmp_path / "m.png"))
    made = sfumato.restore(photo, RestoreOptions(fill=FORMS[form](HIDDEN)))
    assert np.array_equal(made.photo.values, want.photo.values)
    assert made.report["fill"] == "(a picture in memory)"


def test_a_palette_in_memory(tmp_path):
    like = Image.fromarray(PHOTO[48:96, :64])
    like.save(tmp_path / "l.png")
    gray = PHOTO[:48, :64, 0]
    made = [
        sfumato.restore(gray, RestoreOptions(colorize=True, like=one)).photo.values
        for one in (like, np.asarray(like), tmp_path / "l.png")
    ]
    assert np.array_equal(made[0], made[2]) and np.array_equal(made[1], made[2])


def test_a_start_picture_and_a_mask_in_memory(tiny, tmp_path, run):
    source, hidden = PHOTO[:16, :16], np.zeros((16, 16), bool)
    hidden[4:10, 2:12] = True
    Image.fromarray(source).save(tmp_path / "s.png")
    Image.fromarray(hidden).save(tmp_path / "m.png")
    options = {"model": str(tiny), "seed": 1, "steps": 2}
    files = CreateOptions(source=tmp_path / "s.png", mask=tmp_path / "m.png", **options)
    memory = CreateOptions(source=source, mask=Image.fromarray(hidden), **options)
    want, made = (sfumato.create("x", how)[0] for how in (files, memory))
    assert np.array_equal(np.asarray(made.picture), np.asarray(want.picture))
    assert made.settings["source"] == made.settings["mask"] == "(a picture in memory)"
    assert len(made.settings["mask_sha256"]) == 64
    made.save(tmp_path / "made.png")
    code, _, err = run("create", "--again", "made.png", "--output", "again.png")
    assert code == 2 and "(a picture in memory), which does not exist" in err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\) of uint8"),
        (np.full((4, 5), 7.0), "float64"),
        (np.zeros((4, 5), np.int64), "int64"),
        (7, "int was given"),
    ],
    ids=["channels", "large floats", "integers", "number"],
)
def test_what_is_no_picture_is_told(wrong, said):
    for field in ("fill", "like"):
        with pytest.raises(OptionError, match=said):
            RestoreOptions(colorize=True, **{field: wrong})
    with pytest.raises(OptionError, match=said):
        CreateOptions(source=wrong)


def test_photos_of_truth_values_and_floats():
    floats = PHOTO[:8, :9].astype(np.float64) / 255
    assert np.array_equal(photo_of(floats).values, PHOTO[:8, :9])
    assert set(np.unique(photo_of(HIDDEN).values)) == {0, 255}
    with pytest.raises(PictureError, match="float64 was given"):
        photo_of(floats * 300)


def test_an_example_in_memory_is_searched_for(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(PHOTO[k * 9 : k * 9 + 16, :16]).save(folder / f"{k}.png")
    sfumato.index(folder, tmp_path / "ix", "pca:2")
    picture = Image.open(folder / "2.png")
    for like in (picture, np.asarray(picture), folder / "2.png"):
        assert sfumato.search(tmp_path / "ix", like=like)[0].name == "2.png"
    with pytest.raises(OptionError, match="int was given"):
        sfumato.search(tmp_path / "ix", like=3)
    with pytest.raises(OptionError, match="a prompt must be a string"):
        sfumato.create(3)


def test_a_picture_with_a_profile_keeps_it():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (3, 3), "red")
    picture.info["icc_profile"] = profile
    with Image.open(io.BytesIO(png_of(picture))) as again:
        assert again.info["icc_profile"] == profile


def oriented():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    stream = io.BytesIO()
    Image.fromarray(PHOTO[:16, :24]).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


KINDS = {
    "16 bits": lambda: Image.fromarray(PHOTO[:16, :24, 0].astype(np.uint16) * 257),
    "floats": lambda: Image.fromarray(PHOTO[:16, :24, 0].astype(np.float32) / 255),
    "palette": lambda: Image.fromarray(PHOTO[:16, :24]).quantize(16),
    "cmyk": lambda: Image.fromarray(PHOTO[:16, :24]).convert("CMYK"),
    "gray and alpha": lambda: Image.fromarray(PHOTO[:16, :24]).convert("LA"),
    "one bit": lambda: Image.fromarray(PHOTO[:16, :24]).convert("1"),
    "turned": lambda: Image.open(io.BytesIO(oriented())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_is_read_as_from_its_file(kind, tmp_path):
    picture = KINDS[kind]()
    path = tmp_path / ("p.jpg" if kind == "turned" else "p.tif")
    picture.save(path, **({"exif": picture.getexif()} if kind == "turned" else {}))
    if kind == "turned":
        path.write_bytes(oriented())
    with Image.open(io.BytesIO(png_of(picture))) as ours:
        made = image.read(png_of(picture))
        assert ours.size == (16, 24) if kind == "turned" else (24, 16)
    want = image.read(path)
    assert made.size == want.size
    assert np.abs(np.asarray(made).astype(int) - np.asarray(want)).max() <= 1


def test_a_list_of_pillow_pictures_of_any_size_and_mode():
    table = table_of([kind() for kind in KINDS.values()])
    assert table.kind == "pictures" and len(table) == len(KINDS) and table.shape == (3, 32, 32)
