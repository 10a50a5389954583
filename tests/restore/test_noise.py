"""The noise of a photo is measured and removed: even, clipped, of the light, film grain."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image
from tests.restore.common import page_of_text, scene

from sfumato.cli import main
from sfumato.corruption.noise import FilmGrain
from sfumato.data.photo import Photo, read
from sfumato.image import LUMA
from sfumato.metrics import psnr
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.grain import Grain, measure_grain, remove_grain
from sfumato.tasks.restore.level import Levels, noise_levels
from sfumato.tasks.restore.measure import measured_noise
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.noise import Noise
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.patch_noise import estimate_noise, flattest_noise
from sfumato.tasks.restore.stage import noise_network

NETWORKS = RestorationNetworks()


def measured(photo, denoise=None):
    return measured_noise(photo, RestoreOptions(denoise="auto"), NETWORKS.noise_levels, denoise)


def test_estimated_noise_is_near():
    flat = np.zeros((1, 200, 200))
    for sigma in (5, 25, 50):
        noisy = flat + np.random.default_rng(0).normal(0, sigma / 127.5, flat.shape)
        assert estimate_noise(noisy) * 127.5 == pytest.approx(sigma, rel=0.05)
    assert estimate_noise(np.zeros((1, 1, 1))) == 0


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
        noise = measured(photo)
        assert noise.level * 127.5 == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [5, 15, 30])
def test_noise_that_grows_with_the_light_is_measured(sigma):
    """Its level over the picture, and that there is little of it in the dark."""
    for seed in range(3):
        clean = scene(seed)
        strength = sigma * np.sqrt(clean / clean.mean())
        drawn = clean + strength * np.random.default_rng(seed).normal(0, 1, clean.shape)
        photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
        noise = measured(photo)
        assert noise.level * 127.5 == pytest.approx(sigma, rel=0.1)
        bright = sigma * np.sqrt(255 / clean.mean())
        assert noise.bright * 127.5 == pytest.approx(bright, rel=0.15)
        assert noise.dark < 0.35 * noise.bright


def test_even_noise_has_one_level():
    drawn = scene(0) + np.random.default_rng(0).normal(0, 15, (3, 240, 320))
    photo = Photo(drawn.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
    noise = measured(photo)
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
    found = measured(Photo(values.round().astype(np.uint8)))
    assert 127.5 * found.level == pytest.approx(20, rel=0.25)


@pytest.mark.parametrize("size", [9, 12, 20])
def test_letters_are_not_taken_for_noise(size):
    """By patches and the network, a page of small letters has noise of 40."""
    page = np.asarray(page_of_text(size))[..., None]
    assert not measured(Photo(page)).level
    noisy = np.asarray(page_of_text(size, paper=225, ink=30).convert("RGB"))
    noisy = (noisy + np.random.default_rng(0).normal(0, 10, noisy.shape)).round()
    photo = Photo(noisy.clip(0, 255).astype(np.uint8))
    assert restore(photo, RestoreOptions(denoise="auto")).report["sigma"] == pytest.approx(10, 0.1)


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("size", [9, 12, 20])
def test_letters_in_a_jpeg_are_not_taken_for_noise(size, quality, tmp_path):
    page_of_text(size).save(tmp_path / "page.jpg", quality=quality)
    photo = read(tmp_path / "page.jpg")
    assert not measured(photo).level


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
    found = measured(read(tmp_path / "sky.jpg"))
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
    level = 127.5 * measured(read(path), noise_network(NETWORKS)).level
    told = restore(path, RestoreOptions(denoise=level))
    error, plain = (
        float(np.square(one.photo.values.astype(float) - clean).mean()) for one in (made, told)
    )
    assert error < 56 and error < 0.85 * plain, (error, plain)
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
    noise = measured(photo)
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
    noise = measured(read(tmp_path / "a.jpg"))
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
        assert measured(photo).grain is None


@pytest.mark.parametrize("soft", [3.0, 6.0])
def test_what_is_softer_than_grain_stays(soft):
    values = gaussian_filter(np.random.default_rng(0).normal(size=(256, 256)), soft)
    values = 120 + 30 * (values - values.mean()) / values.std()
    photo = Photo(values.clip(0, 255).round().astype(np.uint8)[..., None])
    assert measured(photo).grain is None


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
        noise = measured(photo)
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
    noise = measured(Photo(noisy, alpha))
    assert noise.level * 127.5 == pytest.approx(15, rel=0.1)
    alpha[:, 100:] = 0  # less than the part that the network sees
    made = restore(Photo(noisy, alpha), RestoreOptions(denoise="auto"))
    assert made.report["sigma"] == pytest.approx(15, rel=0.1)


def test_a_jpegs_noise_is_measured_at_half_the_size(tmp_path):
    noisy = (128 + np.random.default_rng(0).normal(0, 12, (256, 256, 3))).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.jpg", quality=70)
    photo = read(tmp_path / "a.jpg")
    left = float(photo.frame().std())  # of the noise, after compression
    assert flattest_noise(photo.frame()) < 0.4 * left
    assert measured(photo).level == pytest.approx(left, rel=0.4)


def test_a_white_sky_does_not_hide_the_noise():
    values = np.full((128, 128, 1), 120.0) + np.random.default_rng(0).normal(0, 12, (128, 128, 1))
    values[:40] = 255
    assert (
        10
        < 127.5 * estimate_noise(Photo(values.clip(0, 255).round().astype(np.uint8)).frame())
        < 14
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_the_network_measures_a_flat_picture(channels, sigma):
    noisy = np.random.default_rng(0).normal(127.5, sigma, (200, 200, channels))
    x = (noisy.clip(0, 255).round() / 127.5 - 1).astype(np.float32).transpose(2, 0, 1)
    found = noise_levels(x, np.ones((200, 200), bool), NETWORKS.noise_levels)
    assert 127.5 * found.level == pytest.approx(sigma, rel=0.08)
    assert found.coarse == pytest.approx(found.level / 2, rel=0.08)
    assert not found.shows_grain(in_jpeg=False)


def test_grain_is_measured_twice():
    """The level is the geometric mean of what the flat parts show and of what a network tells."""
    clean = torch.from_numpy(scene(0) / 127.5 - 1).float()[None]
    x = FilmGrain(15, 15)(clean, generator=torch.Generator().manual_seed(0)).y[0].clamp(-1, 1)
    alone = measure_grain(x.numpy(), 0.0)
    told = Levels(0.2, coarse=0.15, colored=0.01, mean=0.2, left=0.2)
    both = measure_grain(x.numpy(), 0.0, told=told)
    assert both.level == pytest.approx((0.2 * alone.level) ** 0.5)
    assert both.coarse == pytest.approx(0.75 * both.level)
    # an estimate of white noise as strong as this means that the flat parts show no grain
    assert measure_grain(x.numpy(), 0.2) is None
    assert measure_grain(x.numpy(), 0.2, told=told).level == told.level


def test_pixels_that_are_left_out_do_not_change_the_level():
    noisy = np.random.default_rng(0).normal(0, 0.1, (3, 160, 160)).astype(np.float32)
    seen = np.ones((160, 160), bool)
    seen[:, 100:] = False
    flat = noisy.copy()
    flat[:, :, 110:] = 0.3
    one, other = (noise_levels(x, seen, NETWORKS.noise_levels).level for x in (noisy, flat))
    assert one == pytest.approx(0.1, rel=0.1) and other == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (15, 15)])
def test_a_picture_smaller_than_a_square_of_the_network(size):
    values = np.random.default_rng(0).integers(100, 140, (*size, 3), np.uint8)
    assert 0 <= measured(Photo(values), noise_network(NETWORKS)).level < 1
