"""sfumato restore: what is not asked for stays, whatever the network says; wrong input gets one
sentence.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image, load_sample_images
from tests.conftest import make_tiny

from sfumato.cli import main
from sfumato.corruption.noise import FilmGrain
from sfumato.data.photo import Photo, read, write
from sfumato.denoiser.restorer import TILE, Restorer, RestorerConfig
from sfumato.errors import OptionError
from sfumato.hub.load import load
from sfumato.hub.save import save_network
from sfumato.image import LUMA
from sfumato.metrics import psnr
from sfumato.runtime import Streams
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import consensus_chroma, deblock_chroma, tone
from sfumato.tasks.restore.diffusion import _Job, diffuse
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.grain import Grain, measure_grain, remove_grain
from sfumato.tasks.restore.measure import measured_noise
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.noise import Noise
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.patch_noise import estimate_noise, flattest_noise
from sfumato.tasks.restore.run import PATCHES, stream
from sfumato.tasks.restore.stage import noise_network

PHOTO = np.ascontiguousarray(load_sample_images().images[0][100:180, 200:310])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A restorer of random weights, which changes everything that it may."""
    torch.manual_seed(0)
    network = Restorer(RestorerConfig(widths=(8, 12), blocks=1))
    with torch.no_grad():
        network.tail.weight.mul_(100)
    out = tmp_path_factory.mktemp("restorer")
    save_network(network, out)
    return out


@pytest.fixture(scope="module")
def repairer(folder):
    return RestorationNetworks(folder)


def pictures(kind):
    return {
        "RGB": PHOTO,
        "gray": PHOTO[..., :1],
        "16 bits": PHOTO[..., :1].astype(np.uint16) * 257 + 3,
    }[kind]


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


def test_gray_in_three_channels_stays_gray(repairer):
    one, three = (
        restore(
            Photo(np.repeat(PHOTO[..., :1], k, axis=2)), RestoreOptions(denoise=20.0), repairer
        ).photo
        for k in (1, 3)
    )
    assert three.values.shape[2] == 3
    assert (three.values == one.values).all()


@pytest.fixture
def sepia():
    gray = np.asarray(Image.fromarray(PHOTO).convert("L"), np.float32)[..., None]
    values = gray + np.array([12.0, -2.0, -21.0], np.float32) * (gray / 255) * (1 - gray / 255) * 4
    return (
        (values + np.random.default_rng(0).normal(0, 1, values.shape))
        .clip(0, 255)
        .round()
        .astype(np.uint8)
    )


def test_a_sepia_print_keeps_its_tone_and_gets_no_other_color(repairer, sepia):
    made = restore(Photo(sepia), RestoreOptions(denoise=20.0), repairer).photo.values.astype(
        np.float32
    )
    level = made @ np.array(LUMA, np.float32)
    wanted = np.array([12.0, -2.0, -21.0]) * (level / 255 * (1 - level / 255) * 4)[..., None]
    assert np.abs((made - level[..., None]) - wanted)[(level > 30) & (level < 225)].max() < 3
    assert tone(Photo(PHOTO)) is None and tone(Photo(PHOTO[..., :1])) is None, (
        "in colors, and in gray"
    )


def test_a_sepia_print_that_was_painted_on_is_filled_in_its_tone(repairer, sepia):
    clean = tone(Photo(sepia))
    sepia[20:35, 10:40] = (255, 0, 0)
    assert tone(Photo(sepia)) is None
    hidden = (sepia == (255, 0, 0)).all(axis=2)
    assert torch.allclose(tone(Photo(sepia), hidden), clean, atol=0.02)
    made = (
        restore(Photo(sepia), RestoreOptions(fill_color="#ff0000"), repairer)
        .photo.values[hidden]
        .astype(np.float32)
    )
    assert (np.ptp(made, axis=1) < 36).all(), "no other color than the tone's"


def test_a_single_pixel_is_in_one_tone(repairer):
    made = restore(
        Photo(np.array([[[200, 60, 30]]], np.uint8)), RestoreOptions(denoise=20.0), repairer
    ).photo.values
    assert made.shape == (1, 1, 3)
    assert made[0, 0, 0] > made[0, 0, 2]


@pytest.mark.parametrize("kind", ["RGB", "gray"])
def test_colorizing_keeps_luminance(kind, repairer):
    photo = Photo(pictures(kind))
    made = restore(photo, RestoreOptions(colorize=True), repairer)
    assert made.photo.values.shape == PHOTO.shape
    before = photo.values[..., 0] if kind == "gray" else photo.values @ np.array(LUMA)
    assert np.abs(made.photo.values @ np.array(LUMA) - before).max() <= 1
    assert made.report["largest_change_of_luminance"] <= 1
    assert np.ptp(made.photo.values.astype(int), axis=2).mean() > 1, "there is color"


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"denoise": 25.0}, (110, 80)),
        ({"denoise": "auto"}, (110, 80)),
        ({"clean": True}, (110, 80)),
        ({"enlarge": 2}, (220, 160)),
        ({"enlarge": 1.5, "denoise": 10.0}, (165, 120)),
        ({"enlarge": 2, "colorize": True, "denoise": "auto", "fill_box": (0, 0, 9, 9)}, (220, 160)),
    ],
    ids=str,
)
def test_any_combination(options, size, repairer):
    photo = Photo(PHOTO, alpha=PHOTO[..., 0])
    made = restore(photo, RestoreOptions(**options), repairer)
    assert made.photo.size == size
    assert made.photo.alpha.shape == size[::-1]


@pytest.mark.parametrize(
    "options", [{"denoise": 20.0}, {"enlarge": 2.5, "fill_box": (60, 10, 20, 30)}], ids=str
)
def test_windows_change_nothing(options, repairer, monkeypatch):
    photo = Photo(np.tile(PHOTO, (4, 3, 1)))
    whole = restore(photo, RestoreOptions(**options), repairer).photo.values.astype(int)
    monkeypatch.setattr("sfumato.tasks.restore.run.TILE", 128)
    *windows, last = stream(photo, RestoreOptions(**options), repairer)
    assert len(windows) > 5 and windows[-1].done <= windows[-1].total
    assert np.abs(last.photo.values - whole).max() <= 1
    monkeypatch.setattr("sfumato.tasks.restore.stage.MARGIN", 0)
    # what the margin is for
    assert (
        np.abs(restore(photo, RestoreOptions(**options), repairer).photo.values - whole).max() > 1
    )


def test_the_best_answer_does_not_depend_on_how_a_picture_lies(repairer):
    turned, differences = Photo(np.ascontiguousarray(np.rot90(PHOTO)[:, ::-1])), []
    for ensemble in (False, True):
        a, b = (
            restore(photo, RestoreOptions(denoise=20.0, ensemble=ensemble), repairer).photo.values
            for photo in (Photo(PHOTO), turned)
        )
        differences.append(np.abs(np.rot90(a)[:, ::-1].astype(int) - b).max())
    assert differences[1] <= 1 < differences[0]


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


def lab(rgb):
    """CIELAB of an sRGB color, D65."""
    linear = np.where(rgb / 255 > 0.04045, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / (0.9505, 1, 1.089)
    )
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_hints_are_met(repairer):
    """To a CIE76 difference of 5."""
    places = [(20, 10), (90, 30), (50, 70)]
    hints = tuple((x, y, "#{:02x}{:02x}{:02x}".format(*PHOTO[y, x])) for x, y in places)
    made = restore(Photo(PHOTO), RestoreOptions(colorize=True, hints=hints), repairer).photo.values
    plain = restore(Photo(PHOTO), RestoreOptions(colorize=True), repairer).photo.values
    far, otherwise = (
        [float(np.linalg.norm(lab(picture[y, x]) - lab(PHOTO[y, x]))) for x, y in places]
        for picture in (made, plain)
    )
    assert max(far) <= 5, far
    assert max(otherwise) > 10, "without hints they are not"


def test_the_quality_of_a_jpeg_is_told(repairer, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=31)
    made = restore(read(tmp_path / "a.jpg"), RestoreOptions(dejpeg="auto"), repairer)
    assert made.report["quality"] == 31
    other = restore(read(tmp_path / "a.jpg"), RestoreOptions(dejpeg=80), repairer)
    assert (made.photo.values != other.photo.values).any()
    with pytest.raises(OptionError, match="not a JPEG, so its JPEG quality is not known"):
        restore(Photo(PHOTO), RestoreOptions(dejpeg="auto"), repairer)


def test_colors_that_views_disagree_about_are_paled():
    """A guess that follows the photo stays; one that flips when it is mirrored becomes gray."""
    gray = torch.rand((1, 1, 24, 32), generator=torch.Generator().manual_seed(0)) - 0.5
    red = torch.tensor([0.4, -0.2, 0.0])[None, :, None, None]

    def sure(view):
        return red.expand(-1, -1, *view.shape[-2:])

    def unsure(view):  # red at the left, whatever is shown
        side = torch.linspace(1, -1, view.shape[-1])
        return side * red.expand(-1, -1, *view.shape[-2:])

    assert torch.allclose(consensus_chroma(gray, sure), sure(gray), atol=1e-3)
    assert consensus_chroma(gray, unsure).abs().max() < 0.02


def test_saturation_scales_the_guess(repairer):
    def chroma(**more):
        made = restore(Photo(PHOTO), RestoreOptions(colorize=True, **more), repairer).photo.values
        return made.astype(float) - made @ np.array(LUMA)[:, None]

    usual, pale, gray = (chroma(**m) for m in ({}, {"saturation": 0.5}, {"saturation": 0}))
    assert np.abs(gray).max() < 1
    # what would be brighter than white is paled already
    assert 0.45 < np.abs(pale).mean() / np.abs(usual).mean() < 0.7


def test_the_palette_of_another_photo_is_taken(tmp_path, repairer):
    """Where the other photo is red in the dark and blue in the light, the guess becomes so."""
    ramp = np.linspace(0, 255, 96)[None, :, None].repeat(64, axis=0)
    Image.fromarray(
        (ramp + (1 - ramp / 255) * [60, 0, 0] + ramp / 255 * [-60, 0, 60]).clip(0, 255).astype("u1")
    ).save(tmp_path / "like.png")
    options = RestoreOptions(colorize=True, like=str(tmp_path / "like.png"))
    made = restore(Photo(PHOTO), options, repairer).photo.values.astype(float)
    gray = made @ np.array(LUMA)
    redder = made[..., 0] - made[..., 2]
    dark, light = redder[(gray > 40) & (gray < 90)], redder[(gray > 160) & (gray < 210)]
    assert dark.mean() > 10 and light.mean() < -10
    assert np.abs(gray - PHOTO @ np.array(LUMA)).max() <= 1


def test_squares_of_color_go_and_edges_stay():
    """Chroma that jumps where luminance is flat is evened out; where luminance jumps, too, it
    stays. At a better quality nothing is touched.
    """
    x = torch.zeros(1, 3, 64, 64)
    x[..., 32:] = 0.8  # an edge of luminance, at which the color changes
    chroma = torch.tensor([0.2, -0.1, 0.0])[:, None, None]
    squares = ((torch.arange(64) // 16) % 2).float() * 0.3
    x = x + torch.where(torch.arange(64) < 32, chroma, -chroma) + chroma * squares[:, None]
    made = deblock_chroma(x, 10)

    def jump(picture):
        return (picture[0, 0, 16, :24] - picture[0, 0, 15, :24]).abs().mean()

    def edge(picture):
        return (picture[0, 0, :, 33] - picture[0, 0, :, 30]).abs().mean()

    assert jump(made) < 0.3 * jump(x)
    assert edge(made) > 0.8 * edge(x)
    assert torch.equal(deblock_chroma(x, 20), x)


def test_estimated_noise_is_near():
    flat = np.zeros((1, 200, 200))
    for sigma in (5, 25, 50):
        noisy = flat + np.random.default_rng(0).normal(0, sigma / 127.5, flat.shape)
        assert estimate_noise(noisy) * 127.5 == pytest.approx(sigma, rel=0.05)
    assert estimate_noise(np.zeros((1, 1, 1))) == 0


def scene(seed):
    """A photograph of sorts (3, 240, 320), 0 to 255: soft shapes, edges and texture, with parts
    that are nearly black and white.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320] / 60.0
    out = np.stack(
        [
            128
            + 170
            * np.sin(random.uniform(0.5, 2) * x + random.uniform(0, 6))
            * np.cos(random.uniform(0.5, 2) * y)
            for _ in range(3)
        ]
    )
    edge = (x * random.uniform(-1, 1) + y > 2) * 60
    return (out + edge + 6 * np.sin(9 * x) * np.sin(7 * y)).clip(0, 255)


@pytest.mark.parametrize("sigma", [5, 10, 20, 30, 50])
def test_noise_is_measured_where_black_and_white_cut_it_off(sigma):
    for seed in range(3):
        clean = scene(seed)
        noisy = (
            (clean + np.random.default_rng(seed).normal(0, sigma, clean.shape))
            .clip(0, 255)
            .round()
            .astype(np.uint8)
        )
        assert 0.02 < ((noisy == 0) | (noisy == 255)).mean() < 0.6
        photo = Photo(noisy.transpose(1, 2, 0))
        noise = measured_noise(photo, RestoreOptions(denoise="auto"))
        assert noise.level * 127.5 == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [5, 15, 30])
def test_noise_that_grows_with_the_light_is_measured(sigma):
    """Its level over the picture, and that there is little of it in the dark."""
    for seed in range(3):
        clean = scene(seed)
        strength = sigma * np.sqrt(clean / clean.mean())
        drawn = clean + strength * np.random.default_rng(seed).normal(0, 1, clean.shape)
        photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
        noise = measured_noise(photo, RestoreOptions(denoise="auto"))
        assert noise.level * 127.5 == pytest.approx(sigma, rel=0.1)
        bright = sigma * np.sqrt(255 / clean.mean())
        assert noise.bright * 127.5 == pytest.approx(bright, rel=0.15)
        assert noise.dark < 0.35 * noise.bright


def test_even_noise_has_one_level():
    drawn = scene(0) + np.random.default_rng(0).normal(0, 15, (3, 240, 320))
    photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
    noise = measured_noise(photo, RestoreOptions(denoise="auto"))
    assert (noise.dark, noise.bright, noise.measurements()) == (0, 0, {})
    assert noise.of(torch.zeros(1, 3, 4, 4)) == noise.level


def test_a_level_for_each_pixel_is_the_level_of_its_light():
    noise = Noise(0.2, dark=0.0, bright=0.4)
    y = torch.full((1, 3, 20, 40), -1.0)
    y[..., 20:] = 1.0
    levels = noise.of(y)
    assert levels.shape == (1, 1, 20, 40)
    assert levels[..., :16].max() == 0 and levels[..., 24:].min() == pytest.approx(0.4)


def test_noise_is_removed_by_the_level_of_each_pixel():
    """Nearer to the truth than with one level for all."""
    clean = load_sample_image("flower.jpg")[:240, 160:480].transpose(2, 0, 1).astype(float)
    strength = 25 * np.sqrt(clean / clean.mean())
    drawn = clean + strength * np.random.default_rng(1).normal(0, 1, clean.shape)
    photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
    error = {}
    for level in ("auto", 25.0):
        made = restore(photo, RestoreOptions(denoise=level))
        values = made.photo.values.transpose(2, 0, 1).astype(float)
        error[level] = float(np.square(values - clean).mean())
    assert error["auto"] < 0.9 * error[25.0], error
    # turned and mirrored, the levels are, too
    best = restore(photo, RestoreOptions(denoise="auto", ensemble=True))
    assert np.square(best.photo.values.transpose(2, 0, 1) - clean).mean() < error["auto"]


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_texture_is_not_taken_for_noise(name, gray):
    """By patches alone, the gray houses have noise of 13."""
    values = load_sample_image(name).astype(float)
    values = (values @ LUMA)[..., None] if gray else values
    photo = Photo(values.round().astype(np.uint8))
    assert restore(photo, RestoreOptions(denoise="auto")).report["sigma"] < 2
    noisy = values + np.random.default_rng(0).normal(0, 20, values.shape)
    photo = Photo(noisy.clip(0, 255).round().astype(np.uint8))
    assert restore(photo, RestoreOptions(denoise="auto")).report["sigma"] == pytest.approx(20, 0.1)


@pytest.mark.parametrize("sigma", [5, 20])
def test_a_mat_around_a_noisy_photo_has_no_noise(sigma):
    values = load_sample_image("flower.jpg").astype(float)
    values += np.random.default_rng(0).normal(0, sigma, values.shape)
    photo = values.clip(0, 255).round().astype(np.uint8)
    matted = np.pad(photo, ((240, 240), (240, 240), (0, 0)), constant_values=200)
    photo[:, :320] = (90, 120, 60)
    for picture in (matted, photo):
        made = restore(Photo(picture), RestoreOptions(denoise="auto"))
        assert made.report["sigma"] == pytest.approx(sigma, rel=0.1)


def test_noise_of_a_tiny_picture_is_measured():
    values = 128 + np.random.default_rng(0).normal(0, 20, (24, 24, 3))
    found = measured_noise(Photo(values.round().astype(np.uint8)), RestoreOptions(denoise="auto"))
    assert 127.5 * found.level == pytest.approx(20, rel=0.25)


def page_of_text(size, paper=255, ink=0, sides=(480, 320)):
    """Lines of random letters on paper."""
    picture = Image.new("L", sides, paper)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size)
    random = np.random.default_rng(0)
    for top in range(16, sides[1] - 20, round(1.4 * size)):
        text = "".join(random.choice(list("abcdefghijklmno   "), sides[0] // 8))
        pen.text((16, top), text, fill=ink, font=font)
    return picture


@pytest.mark.parametrize("size", [9, 12, 20])
def test_letters_are_not_taken_for_noise(size):
    """By patches and the network, a page of small letters has noise of 40."""
    page = np.asarray(page_of_text(size))[..., None]
    assert not measured_noise(Photo(page), RestoreOptions(denoise="auto")).level
    noisy = np.asarray(page_of_text(size, paper=225, ink=30).convert("RGB"))
    noisy = (noisy + np.random.default_rng(0).normal(0, 10, noisy.shape)).round()
    photo = Photo(noisy.clip(0, 255).astype(np.uint8))
    assert restore(photo, RestoreOptions(denoise="auto")).report["sigma"] == pytest.approx(10, 0.1)


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("size", [9, 12, 20])
def test_letters_in_a_jpeg_are_not_taken_for_noise(size, quality, tmp_path):
    page_of_text(size).save(tmp_path / "page.jpg", quality=quality)
    photo = read(tmp_path / "page.jpg")
    assert not measured_noise(photo, RestoreOptions(denoise="auto")).level


def test_letters_on_clipped_paper_are_no_grain():
    """Where noise on paper is clipped, only the blocks with letters are not."""
    page = np.asarray(page_of_text(22, paper=250, ink=30, sides=(1240, 1300)), np.float32)
    noisy = (page + np.random.default_rng(0).normal(0, 10, page.shape)).clip(0, 255).round()
    assert measure_grain(noisy[None] / 127.5 - 1, 14 / 127.5) is None


def test_a_white_sky_is_not_paper(tmp_path):
    values = load_sample_image("flower.jpg").astype(float)
    values[:200] = 300
    values += np.random.default_rng(0).normal(0, 20, values.shape)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / "sky.jpg", quality=90)
    found = measured_noise(read(tmp_path / "sky.jpg"), RestoreOptions(denoise="auto"))
    assert 10 < 127.5 * found.level < 20


@pytest.mark.parametrize("gray", [False, True])
def test_a_jpeg_without_noise_keeps_its_texture(tmp_path, gray):
    """By patches alone, the gray houses have noise of 12."""
    clean = Image.fromarray(load_sample_image("china.jpg")).convert("L" if gray else "RGB")
    clean.save(tmp_path / "clean.jpg", quality=85)
    made = restore(tmp_path / "clean.jpg", RestoreOptions(denoise="auto"))
    assert made.report["sigma"] < 4
    given = np.asarray(Image.open(tmp_path / "clean.jpg"))
    before, after = (
        psnr(values.squeeze(), np.asarray(clean)) for values in (given, made.photo.values)
    )
    assert after > before


def test_noise_in_a_color_jpeg_is_removed(tmp_path):
    """JPEG keeps more noise in luminance than the network expects at the measured level."""
    clean = load_sample_image("flower.jpg")[:240, 160:480]
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    picture = Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))
    picture.save(tmp_path / "noisy.jpg", quality=90)
    path, auto = tmp_path / "noisy.jpg", RestoreOptions(denoise="auto")
    made = restore(path, auto)
    measured = 127.5 * measured_noise(read(path), auto, noise_network(RestorationNetworks())).level
    told = restore(path, RestoreOptions(denoise=measured))
    error, plain = (
        float(np.square(one.photo.values.astype(float) - clean).mean()) for one in (made, told)
    )
    assert error < 0.8 * plain, (error, plain)
    again = restore(path, RestoreOptions(denoise=made.report["sigma"]))
    assert np.abs(again.photo.values.astype(int) - made.photo.values).max() <= 1


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("soft", [0.7, 1.0])
def test_grain_is_measured_and_removed(soft, gray):
    """A network for white noise alone takes soft grain for texture."""
    clean = torch.from_numpy(scene(0) / 127.5 - 1).float()[None]
    clean = clean.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1) if gray else clean
    y = FilmGrain(15, 15, soft)(clean, generator=torch.Generator().manual_seed(0)).y
    values = (127.5 * (y[0].permute(1, 2, 0).numpy() + 1)).clip(0, 255).round().astype(np.uint8)
    photo = Photo(values[..., :1] if gray else values)
    noise = measured_noise(photo, RestoreOptions(denoise="auto"))
    assert noise.grain is not None and noise.grain.soft
    assert noise.grain.gray
    assert noise.level * 127.5 == pytest.approx(15, rel=0.15)
    made = restore(photo, RestoreOptions(denoise="auto"))
    as_white = restore(photo, RestoreOptions(denoise=noise.level * 127.5))
    assert made.report["grain"] and 0.6 < made.report["sigma_coarse"] / made.report["sigma"] < 1
    truth = 127.5 * (clean[0].permute(1, 2, 0).numpy() + 1)[..., : values.shape[2]]
    error, error_as_white = (
        float(np.square(one.photo.values - truth).mean()) for one in (made, as_white)
    )
    assert error < 0.75 * error_as_white


def test_clipping_does_not_change_the_measured_grain():
    """At a brightness of 0.6, a sixth of the values is above white."""

    def level(light):
        even = torch.full((1, 3, 240, 320), light)
        y = FilmGrain(50, 50, 0.7)(even, generator=torch.Generator().manual_seed(0)).y
        return measure_grain(y[0].clamp(-1, 1).numpy(), 0.0).level

    assert level(0.6) == pytest.approx(level(0.0), rel=0.04)


@pytest.mark.parametrize(("kind", "found"), [(FilmGrain(20, 20), True), (None, False)])
def test_grain_in_a_jpeg(kind, found, tmp_path):
    clean, seed = torch.from_numpy(scene(0) / 127.5 - 1).float()[None], torch.Generator()
    seed.manual_seed(0)
    white = clean + 20 / 127.5 * torch.randn(clean.shape, generator=seed)
    y = white if kind is None else kind(clean, generator=seed).y
    values = (127.5 * (y[0].permute(1, 2, 0).numpy() + 1)).clip(0, 255).round().astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=90)
    noise = measured_noise(read(tmp_path / "a.jpg"), RestoreOptions(denoise="auto"))
    assert (noise.grain is not None) == found
    if noise.grain is not None:
        assert noise.level * 127.5 == pytest.approx(20, rel=0.15)
        assert noise.grain.gray and noise.grain.soft


def test_grain_is_told(tmp_path, capsys, monkeypatch):
    flat = torch.zeros(1, 3, 160, 160)
    y = FilmGrain(15, 15)(flat, generator=torch.Generator().manual_seed(0)).y[0].permute(1, 2, 0)
    pixels = (127.5 * (y.numpy() + 1)).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", "sfumato restore a.png --denoise --output b.png".split())
    with pytest.raises(SystemExit):
        main()
    assert "b.png (film grain 1" in capsys.readouterr().out


def test_grain_leaves_the_color_as_it_is():
    noisy = FilmGrain(15, 15)(torch.from_numpy(scene(1) / 127.5 - 1).float()[None]).y
    made = remove_grain(lambda y, level: 0.5 * y, noisy, Grain(0.1, 0.07, gray=True))
    before, after = (x - x.mean(dim=1, keepdim=True) for x in (noisy, made))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("size", [(240, 320), (37, 51)])
def test_texture_and_white_noise_are_no_grain(size):
    clean = load_sample_image("china.jpg")[: size[0], : size[1]].transpose(2, 0, 1)
    for sigma in (0, 10, 25):
        drawn = clean + np.random.default_rng(0).normal(0, sigma, clean.shape)
        photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
        assert measured_noise(photo, RestoreOptions(denoise="auto")).grain is None


@pytest.mark.parametrize("soft", [3.0, 6.0])
def test_what_is_softer_than_grain_stays(soft):
    values = gaussian_filter(np.random.default_rng(0).normal(size=(256, 256)), soft)
    values = 120 + 30 * (values - values.mean()) / values.std()
    photo = Photo(values.clip(0, 255).round().astype(np.uint8)[..., None])
    assert measured_noise(photo, RestoreOptions(denoise="auto")).grain is None


def test_a_picture_of_gravel_is_no_grain():
    """Its flat blocks are all alike, but their values are not normal."""
    random = np.random.default_rng(0)
    for drawn, found in (
        (random.exponential(size=(256, 256)), False),
        (random.normal(size=(256, 256)), True),
    ):
        values = gaussian_filter(drawn, 0.8)
        values = 120 + 20 * (values - values.mean()) / values.std()
        photo = Photo(values.clip(0, 255).round().astype(np.uint8)[..., None])
        noise = measured_noise(photo, RestoreOptions(denoise="auto"))
        assert (noise.grain is not None) == found


def test_noise_under_clear_pixels_is_not_measured():
    noisy = (
        (scene(0) + np.random.default_rng(0).normal(0, 15, (3, 240, 320)))
        .clip(0, 255)
        .round()
        .astype(np.uint8)
        .transpose(1, 2, 0)
    )
    noisy[:, 200:] = 0
    alpha = np.full((240, 320), 255, np.uint8)
    alpha[:, 200:] = 0
    noise = measured_noise(Photo(noisy, alpha), RestoreOptions(denoise="auto"))
    assert noise.level * 127.5 == pytest.approx(15, rel=0.1)
    alpha[:, 100:] = 0  # less than the part that the network sees
    made = restore(Photo(noisy, alpha), RestoreOptions(denoise="auto"))
    assert made.report["sigma"] == pytest.approx(15, rel=0.1)


def test_a_jpegs_noise_is_measured_at_half_the_size(tmp_path):
    noisy = (128 + np.random.default_rng(0).normal(0, 12, (256, 256, 3))).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.jpg", quality=70)
    photo, options = read(tmp_path / "a.jpg"), RestoreOptions(denoise="auto")
    left = float(photo.frame().std())  # of the noise, after compression
    assert flattest_noise(photo.frame()) < 0.4 * left
    assert measured_noise(photo, options).level == pytest.approx(left, rel=0.4)


def mask(path, size=(110, 80), white=None):
    picture = Image.new("L", size)
    if white:
        picture.paste(255, white)
    picture.save(path)
    return str(path)


def test_wrong_input(repairer, tmp_path):
    photo = Photo(PHOTO)
    cases = [
        ({"fill": mask(tmp_path / "a.png", (9, 9), (0, 0, 3, 3))}, "must agree"),
        ({"fill": mask(tmp_path / "b.png")}, "no white pixels"),
        ({"fill": mask(tmp_path / "c.png", white=(0, 0, 110, 80))}, "no known pixels are left"),
        ({"fill_box": (100, 0, 20, 20)}, "within the picture"),
        ({"fill_box": (0, 0, 0, 4)}, "within the picture"),
    ]
    for options, message in cases:
        with pytest.raises(OptionError, match=message):
            restore(photo, RestoreOptions(**options), repairer)


def run(capsys, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["sfumato", "restore", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def test_a_folder_with_a_broken_file_and_a_second_run(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    words = [
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--model",
        folder,
        "--denoise",
        "25",
        "--json",
        "--compare",
    ]
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 3, "some failed"
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(tmp_path / "out/a.png"),
        str(tmp_path / "out/b.jpg"),
    ]
    assert "c.png cannot be read" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "a.png",
        "b.jpg",
        "a-compare.png",
        "b-compare.png",
    }
    with (
        Image.open(tmp_path / "out/a.png") as made,
        Image.open(tmp_path / "out/a-compare.png") as both,
    ):
        assert json.loads(made.text["sfumato"])["sigma"] == 25
        assert both.size == (224, 80)
    (tmp_path / "in/c.png").unlink()
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, out) == (0, ""), "a script that repeats the command has not failed"
    assert "nothing to do: all 2 pictures exist already" in err
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "in",
        "--output",
        tmp_path / "new",
        "--model",
        folder,
        "--fill",
        "none.png",
    )
    assert code == 2, "a wrong option is no picture to leave out"
    assert err.strip().splitlines() == ["sfumato: none.png does not exist"]
    assert not (tmp_path / "new").exists()
    (tmp_path / "out/a.png").unlink()
    code, out, _ = run(capsys, monkeypatch, *words)
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(tmp_path / "out/a.png")
    ], "what is done stays"


def test_one_picture_that_fits_not_stops_no_other(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "in/a.png")  # no JPEG: its quality is not known
    Image.fromarray(PHOTO).save(tmp_path / "in/b.jpg")
    words = ["--output", tmp_path / "out", "--model", folder, "--dejpeg"]
    code, out, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert code == 3
    assert out.startswith(str(tmp_path / "out/b.jpg"))
    assert "left out" in err
    assert "a.png" in err
    code, out, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert (code, out) == (3, ""), "the same command again is as successful as before"
    assert "left out" in err
    (tmp_path / "in/b.jpg").unlink()
    code, _, err = run(capsys, monkeypatch, tmp_path / "in", *words)
    assert code == 2, "nothing could be restored"
    assert "none of the 1 pictures" in err


def test_a_folder_with_folders_and_comparisons_that_are_missing(
    folder, tmp_path, capsys, monkeypatch
):
    (tmp_path / "in/trip/day").mkdir(parents=True)
    for name in ("a.png", "trip/a.png", "trip/day/b.bmp"):
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    words = [tmp_path / "in", "--output", tmp_path / "in/new", "--model", folder, "--denoise", "25"]
    made = {"a.png", "trip/a.png", "trip/day/b.bmp"}
    for more, expected in (([], made), ([], set()), (["--compare"], made), (["--compare"], set())):
        code, out, _ = run(capsys, monkeypatch, *words, *more)
        assert code == 0
        assert {
            str(Path(line.split(" (")[0]).relative_to(tmp_path / "in/new"))
            for line in out.splitlines()
        } == expected
    assert (tmp_path / "in/new/trip/day/b-compare.png").exists()


def test_a_single_picture_is_not_replaced_for_its_comparison(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    words = [
        tmp_path / "a.png",
        "--denoise",
        "10",
        "--model",
        folder,
        "--output",
        tmp_path / "b.png",
    ]
    assert run(capsys, monkeypatch, *words)[0] == 0
    for more in ([], ["--compare"]):
        code, _, err = run(capsys, monkeypatch, *words, *more)
        assert code == 2
        assert "b.png exists already; give --overwrite" in err


def test_the_report_names_the_network_that_was_asked(tmp_path):
    said = {
        o: restore(Photo(PHOTO[:32, :32]), RestoreOptions.build({o: v})).report["model_sha256"]
        for o, v in (("colorize", True), ("denoise", 25.0))
    }
    expected = {"colorize": "tints", "denoise": "noise"}
    assert said == {o: RestorationNetworks().sha256(part) for o, part in expected.items()}


def test_answers_are_not_mistaken_for_pictures(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("IMG.png", "IMG-1.png"):
        Image.fromarray(PHOTO[:16, :16]).save(tmp_path / "in" / name)
    words = ["--output", tmp_path / "out", "--model", folder, "--denoise", "25"]
    assert (
        run(
            capsys,
            monkeypatch,
            tmp_path / "in/IMG-1.png",
            *words[:1],
            tmp_path / "out/",
            *words[2:],
        )[0]
        == 0
    )
    code, out, _ = run(capsys, monkeypatch, str(tmp_path / "in/*.png"), *words)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [str(tmp_path / "out/IMG.png")]


def test_two_pictures_are_not_written_to_one_file(folder, tmp_path, capsys, monkeypatch):
    for name in ("a/x.png", "b/x.png", "c/x.gif", "c/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PHOTO[:8, :8]).save(tmp_path / name)
    words = "--output", tmp_path / "out", "--model", folder, "--denoise", "25"
    code, _, err = run(capsys, monkeypatch, tmp_path / "a", tmp_path / "b", *words)
    assert code == 2
    assert "would both be written" in err
    assert not (tmp_path / "out").exists()
    masked = (*words, "--fill-box", "1,1,3,3", "--save-mask")
    code, _, _ = run(capsys, monkeypatch, tmp_path / "c", *masked[2:], "--output", tmp_path / "two")
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["x-gif-mask.png", "x-gif.png", "x-png-mask.png", "x.png"]
    code, _, _ = run(capsys, monkeypatch, tmp_path / "c", *words, "--compare")
    assert code == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["x-gif-compare.png", "x-gif.png", "x-png-compare.png", "x.png"], (
        "their endings tell them apart"
    )


def test_no_claim_about_pixels_that_jpeg_changes(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    for name, claimed in (("b.png", True), ("b.jpg", False)):
        words = [
            tmp_path / "a.png",
            "--fill-box",
            "5,5,8,8",
            "--output",
            tmp_path / name,
            "--model",
            folder,
            "--json",
        ]
        report = json.loads(run(capsys, monkeypatch, *words)[1])
        assert ("largest_change_elsewhere" in report) == claimed
        assert bool(report["notes"]) != claimed


def test_what_a_shrunk_gray_result_differs_by_is_told(repairer):
    for values in (PHOTO, PHOTO[..., :1], np.repeat(PHOTO[..., :1], 3, axis=2), PHOTO[:1, :2]):
        report = restore(Photo(values), RestoreOptions(enlarge=2.0), repairer).report
        assert report["shrunk_difference"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to undo"),
        (["--denoise=much"], "write auto or a number"),
        (["--noise-level", "much"], "write auto or a number"),
        (["--denoise", "much"], "much does not exist"),
        (["--denoise", "-3"], "above 0 and at most 255"),
        (["--dejpeg", "0"], "within 1 to 100"),
        (["--dejpeg", "2.5"], "auto or a whole number"),
        (["--fill-color", "red"], "#rrggbb"),
        (["--hint", "1,2,#ff0000"], "need --colorize"),
        (["--denoise", "9", "--saturation", "2"], "need --colorize"),
        (["--colorize", "--like", "no.png"], "no.png"),
        (["--colorize", "--hint", "1,2"], "X,Y,#rrggbb"),
        (["--dejpeg"], "not a JPEG, so its JPEG quality is not known"),
        (["--colorize", "--hint", "500,2,#ff0000"], "within the picture"),
        (["--enlarge", "9"], "enlarge"),
        (["--fill-box", "1,2,3"], "write X,Y,W,H"),
        (["--fill", "none.png"], "does not exist"),
        (["--model", "nowhere", "--colorize"], "no restorer"),
    ],
)
def test_wrong_options(words, message, folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    given = [] if "--model" in words else ["--model", folder]
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "a.png", "--output", tmp_path / "b.png", *given, *words
    )
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert {p.name for p in tmp_path.iterdir()} == {"a.png"}


def test_denoise_needs_no_value(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    words = ["--denoise", tmp_path / "a.png", "--output", tmp_path / "b.png", "--model", folder]
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'b.png'} (noise ")


def test_diffusion_agrees_with_what_was_measured(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO[:60, :70]).save(tmp_path / "a.png")
    words = [
        "--output",
        tmp_path / "b.png",
        "--engine",
        "diffusion",
        "--samples",
        "2",
        "--steps",
        "3",
        "--seed",
        "5",
        "--prompt",
        "a roof",
        "--json",
    ]
    code, out, err = run(
        capsys, monkeypatch, tmp_path / "a.png", "--fill-box", "10,20,30,15", *words
    )
    assert code == 0, err
    reports = [json.loads(line) for line in out.splitlines()]
    assert [r["seed"] for r in reports] == [5, 6]
    assert [r["largest_change_elsewhere"] for r in reports] == [0, 0]
    hidden = np.zeros((60, 70), bool)
    hidden[20:35, 10:40] = True
    one, two = (np.asarray(Image.open(r["path"])) for r in reports)
    assert (one[~hidden] == PHOTO[:60, :70][~hidden]).all()
    assert (one != two)[hidden].any(), "another seed, another answer"
    spread = np.asarray(Image.open(tmp_path / "b-spread.png"))
    assert (spread[~hidden] == 0).all()
    assert spread[hidden].max() == 255


@pytest.mark.parametrize(
    "options",
    [
        {"colorize": True},
        {"enlarge": 2},
        {"enlarge": 2, "colorize": True, "fill_box": (5, 5, 9, 9)},
    ],
    ids=str,
)
def test_a_diffusion_models_answer_fits_the_measurement(options):
    model = load("icons")
    *_, answer = diffuse(
        Photo(PHOTO[:32, :48]),
        RestoreOptions(**options, engine="diffusion", steps=2, seed=0),
        model,
        RestorationNetworks(),
    )
    made = answer.photo
    assert made.size == ((96, 64) if "enlarge" in options else (48, 32))
    if options != {"colorize": True}:
        assert answer.report["largest_disagreement"] < 40, (
            "only clipping to what a screen shows is in the way"
        )
        return
    free = ((made.values > 0) & (made.values < 255)).all(axis=2)
    assert free.mean() > 0.5
    apart = np.abs((made.values.astype(float) - PHOTO[:32, :48]) @ np.array(LUMA))
    assert apart[free].max() < 1, "where nothing was clipped, the measurement is kept to rounding"


def test_progress_never_goes_back(tmp_path):
    """Looking for scratches, restoring and filling by patches are one way from start to end."""
    values = np.full((40, 300, 3), 90, np.uint8)
    values[:, 100:104] = 250
    hidden = np.zeros((40, 300), np.uint8)
    hidden[5:35, 150:190] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    options = RestoreOptions(
        fill_scratches=True, fill=str(tmp_path / "mask.png"), denoise=5, seed=0
    )
    *events, _ = stream(Photo(values), options, RestorationNetworks())
    shares = [event.done / event.total for event in events]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] == 1
    assert [*dict.fromkeys(e.what for e in events)] == [
        "looking for scratches",
        "restoring",
        "filling",
    ]


def test_restore_in_python_takes_the_engine_of_the_options(tiny):
    picture = Photo(np.full((16, 16, 3), 90, np.uint8))
    options = {"fill_box": (4, 4, 8, 8), "steps": 2, "prompt": "a cat", "engine": "diffusion"}
    made = [restore(picture, RestoreOptions(**options, model=str(tiny), seed=k)) for k in (1, 2)]
    assert made[0].report["engine"] == "diffusion"
    assert not np.array_equal(made[0].photo.values, made[1].photo.values)


def test_clear_pixels_have_no_color_of_their_own_for_diffusion(tiny):
    model = load(tiny)
    values = np.full((16, 16, 3), 90, np.uint8)
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:, 8:] = 0
    hidden = values.copy()
    hidden[:, 8:] = (255, 0, 255)
    options = RestoreOptions(denoise=20, engine="diffusion", model=str(tiny), seed=1)
    jobs = [_Job(Photo(v, alpha), options, model, None, 0.1) for v in (values, hidden)]
    assert torch.equal(jobs[0].y, jobs[1].y)


@pytest.mark.parametrize(
    "options", [{"colorize": True}, {"enlarge": 2}, {"fill_box": (5, 5, 9, 9)}], ids=str
)
def test_in_pixels_the_measurement_is_kept_at_every_step(options, tiny, tmp_path):
    """A x = y to rounding whatever the model says; in latents, which are decoded and encoded,
    nearly so.
    """
    photo, options = Photo(PHOTO[:32, :48]), RestoreOptions(**options)
    gaps = np.zeros((32, 48), bool)
    gaps[5:14, 5:14] = True
    off = {}
    for folder in (
        tiny,
        make_tiny(tmp_path / "pixels", pixels=True, in_channels=3, out_channels=3),
    ):
        job = _Job(photo, options, load(str(folder)), gaps if options.fills else None, 0.0)
        with torch.inference_mode():
            x = job.start(Streams([3]), 1.0)
            clean = job.decode(job.agreeing()(0.1 * x, torch.ones(1)))
        off[folder.name] = float((job.operator.apply(clean) - job.y).abs().max())
    assert off.pop("pixels") < 1e-5
    assert off.popitem()[1] > 1e-2, "the check can see a difference"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "magic"], "engine='magic' is not supported"),
        (["--samples", "2"], "several possible results"),
        (["--engine", "diffusion", "--dejpeg", "30"], "only linear damage"),
        (["--engine", "diffusion", "--samples", "0"], "samples"),
        (["--engine", "diffusion", "--colorize", "--hint", "1,1,#ff0000"], "only linear damage"),
        (["--engine", "diffusion", "--colorize", "--saturation", "0.5"], "only linear damage"),
        (["--engine", "diffusion", "--enlarge", "1.5037", "--denoise", "9"], "no size"),
        (["--clean"], "--clean needs --model"),
    ],
)
def test_wrong_engines(words, message, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    asked = [] if set(words) & {"--dejpeg", "--enlarge", "--clean"} else ["--denoise", "9"]
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "a.png", "--output", tmp_path / "b.png", *asked, *words
    )
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("kind", ["RGB", "gray"])
def test_filling_and_coloring_keep_the_luminance_of_all_else(kind, repairer):
    photo = Photo(pictures(kind))
    made = restore(photo, RestoreOptions(fill_box=(10, 20, 30, 15), colorize=True), repairer)
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[20:35, 10:40] = True
    before, after = (
        np.atleast_3d(p.values).astype(float)
        @ (np.array(LUMA) if p.values.shape[2] == 3 else np.ones(1))
        for p in (photo, made.photo)
    )
    assert np.abs(after - before)[~inside].max() <= 1.01
    assert np.abs(after - before)[inside].max() > 5
    assert made.report["largest_change_of_luminance"] <= 1.01
    assert "largest_change_elsewhere" not in made.report


def test_a_comparison_does_not_replace_what_is_there(folder, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a-compare.png").write_bytes(b"mine")
    (tmp_path / "notes").write_bytes(b"")
    for output, sentence in (
        ("out", "a-compare.png exists already"),
        ("notes", "notes is a file; give a folder"),
    ):
        words = [
            tmp_path / "a.png",
            "--denoise",
            "10",
            "--model",
            folder,
            "--output",
            tmp_path / output,
            "--compare",
        ]
        code, _, err = run(capsys, monkeypatch, *words)
        assert code == 2
        assert sentence in err
    assert (tmp_path / "out/a-compare.png").read_bytes() == b"mine"
    assert not (tmp_path / "out/a.png").exists()


def test_diffusion_walks_from_the_noise_that_it_is_told():
    model = load("icons")
    tops = [
        float(
            _Job(
                Photo(PHOTO[:32, :48]), RestoreOptions(denoise=s), model, None, s / 127.5
            ).sigmas()[0]
        )
        for s in (0.5, 5.0, 15.0, 60.0)
    ]
    least = float(model.denoiser.times.sigmas[0])
    assert tops == pytest.approx(
        [max(least, 2 * s / 127.5) for s in (0.5, 5.0, 15.0, 60.0)], rel=1e-3
    )


def test_diffusion_refuses_what_is_too_large_for_memory():
    photo = Photo(np.zeros((1200, 1000, 3), np.uint8))
    events = diffuse(photo, RestoreOptions(enlarge=2), load("icons"), RestorationNetworks())
    with pytest.raises(OptionError, match="4.8 megapixels are too many at once"):
        next(events)


def test_a_picture_is_never_replaced_by_what_is_made_of_it(capsys, monkeypatch, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(PHOTO[:16, :16]).save(tmp_path / name)
    before = (tmp_path / "a.png").read_bytes()
    code, _, err = run(
        capsys, monkeypatch, tmp_path, "--denoise", 5, "--output", tmp_path, "--overwrite"
    )
    assert (code, "give another --output" in err) == (2, True)
    assert (tmp_path / "a.png").read_bytes() == before


def test_clean_needs_a_network_of_ones_own():
    with pytest.raises(OptionError, match="--clean needs --model"):
        restore(Photo(PHOTO), RestoreOptions(clean=True))


def test_beside_clean_the_bundled_networks_give_color(folder):
    alone, beside = RestorationNetworks(folder), RestorationNetworks(folder, repairs=True)
    gray = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    assert torch.equal(beside.colors(gray), RestorationNetworks().colors(gray)), (
        "it was trained on pairs"
    )
    assert (
        beside.sha256("photos")
        == alone.sha256("photos")
        == alone.sha256("tints")
        != beside.sha256("tints")
    )


def test_several_things_are_undone_in_turn_by_the_network_for_each():
    options = {"fill_box": (4, 4, 8, 8), "denoise": 20.0, "enlarge": 2.0}
    photo, events = (
        Photo(PHOTO[:40, :56]),
        list(stream(Photo(PHOTO[:40, :56]), RestoreOptions.build(options), RestorationNetworks())),
    )
    by_hand = photo
    for name, value in options.items():
        by_hand = restore(by_hand, RestoreOptions.build({name: value})).photo
    last = events[-1]
    assert np.array_equal(last.photo.values, by_hand.values)
    # the way to the end has room for patches; this hole is too narrow
    assert [e.done for e in events[:-1]] == [1, 2 + PATCHES, 3 + PATCHES]
    assert {e.total for e in events[:-1]} == {3 + PATCHES}
    assert last.report["model_sha256"] == {
        part: RestorationNetworks().sha256(part) for part in ("gaps", "noise", "size")
    }
    assert last.report["sigma"] == 20
    assert not {"largest_change_elsewhere", "shrunk_difference"} & last.report.keys(), (
        "they hold of one stage alone"
    )


def test_a_network_of_ones_own_undoes_all_together(repairer):
    asked = []
    repair = repairer.repair
    repairer.repair = lambda *given: asked.append(given[3]) or repair(*given)
    made = restore(Photo(PHOTO[:40, :56]), RestoreOptions(denoise=20.0, enlarge=2.0), repairer)
    assert asked == [None]
    assert made.report["model_sha256"] == repairer.sha256("photos")


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


def test_a_white_sky_does_not_hide_the_noise():
    values = np.full((128, 128, 1), 120.0) + np.random.default_rng(0).normal(0, 12, (128, 128, 1))
    values[:40] = 255
    assert (
        10
        < 127.5 * estimate_noise(Photo(values.clip(0, 255).round().astype(np.uint8)).frame())
        < 14
    )


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoise": 9.0, "sensitivity": 0.7}, "--sensitivity needs --fill-scratches"),
        ({"fill_box": (1, 1, 2, 2), "fill_tolerance": 9.0}, "--fill-tolerance needs --fill-color"),
    ],
    ids=str,
)
def test_options_of_what_is_not_asked_for(options, message):
    with pytest.raises(OptionError, match=message):
        RestoreOptions(**options)


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


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("scratches", ["--denoise", "9"]),
        ("gaps", ["--denoise", "9"]),
        ("photos", ["--clean"]),
        ("photos", ["--colorize"]),
    ],
)
def test_a_bundled_network_is_refused_for_other_damage(model, words, tmp_path, capsys, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    given = (tmp_path / "a.png", "--output", tmp_path / "b.png", "--model", model, *words)
    code, _, err = run(capsys, monkeypatch, *given)
    assert code == 2 and f"the bundled network {model} is for" in err
    if words == ["--denoise", "9"]:
        monkeypatch.setattr(sys, "argv", ["sfumato", "evaluate", "restore", str(tmp_path), *words])
        sys.argv += ["--model", model]
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2


def test_options_may_be_a_mapping():
    made = restore(PHOTO, {"denoise": 5})
    assert made.report["sigma"] == 5
    with pytest.raises(OptionError, match="must be a RestoreOptions"):
        restore(PHOTO, 5)
