"""sfumato evaluate restore: known figures come out, wrong input gets one sentence."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.errors import OptionError, PictureError
from sfumato.tasks.evaluate.restoration import (
    SHAPES,
    Score,
    damage,
    lpips,
    restore,
    score,
    trained,
)


def scores(*asked, **options):
    """The scores of an evaluation, without its progress."""
    return (event for event in restore(*asked, **options) if isinstance(event, Score))


@pytest.fixture
def photos(tmp_path):
    for k, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels[:240, :321]).save(tmp_path / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize("gray", [False, True])
def test_noise_that_stays_has_its_analytic_figure(photos, gray):
    for sigma, want in ((15, 24.61), (25, 20.17), (50, 14.15)):
        found = list(scores(photos, "denoise", sigma, gray=gray, method="input"))
        assert np.mean([s.psnr for s in found]) == pytest.approx(want, abs=0.03)
    assert [s.psnr for s in found] == [
        s.psnr for s in scores(photos, "denoise", 50, gray=gray, method="input")
    ], "the noise has a fixed seed"


def test_bicubic_is_between_nothing_and_all(photos):
    means = {
        factor: np.mean([s.psnr for s in scores(photos, "enlarge", factor, method="bicubic")])
        for factor in (2, 3, 4)
    }
    assert 45 > means[2] > means[3] > means[4] > 20


def test_interpolation_keeps_straight_lines():
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 1, 16, 16)
    larger = interpolate(ramp, (32, 32))[0, 0, 10, 8:-8]
    torch.testing.assert_close(
        larger, (torch.arange(32.0, dtype=torch.float64)[8:-8] + 0.5) / 2 - 0.5
    )
    assert (Downscale(2).apply(interpolate(ramp, (32, 32))) - ramp)[..., 4:-4].abs().max() < 1e-9


class Oracle:
    """Knows the answer: half gray everywhere."""

    def repair(self, y, planes, sigma, only=None):
        return torch.zeros_like(y)

    def colors(self, gray):
        return torch.zeros(1, 3, *gray.shape[-2:])


@pytest.mark.parametrize("gray", [False, True])
def test_a_compressed_picture_is_what_its_file_holds(photos, gray):
    for damaged in damage(photos, "dejpeg", 10, gray=gray):
        clean, stream = damaged.clean.astype(np.uint8).squeeze(), io.BytesIO()
        Image.fromarray(clean).save(stream, "JPEG", quality=10)
        seen = damaged.y[0].permute(1, 2, 0).numpy().squeeze()
        assert (seen == np.asarray(Image.open(stream))).all()
        assert 20 < score(damaged, damaged.y).psnr < 40


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_known_stays_when_a_part_is_filled(photos, shape):
    for damaged in damage(photos, "fill", shape):
        assert 0.01 < 1 - damaged.known.mean() < 0.9
        assert (damaged.y[0, :, ~damaged.known] == 0).all()
        made = trained(damaged, Oracle())
        known = torch.from_numpy(damaged.known)
        assert (made[0, :, known] == damaged.y[0, :, known]).all()
        assert (made[0, :, ~known] - 127.5).abs().max() <= 0.5


def test_gray_has_the_colors_error(photos):
    for damaged in damage(photos, "colorize"):
        made = trained(damaged, Oracle())
        assert score(damaged, made).psnr == pytest.approx(
            score(damaged, damaged.y.expand(-1, 3, -1, -1)).psnr, abs=0.01
        )
        assert score(damaged, torch.from_numpy(damaged.clean).permute(2, 0, 1)[None]).psnr == float(
            "inf"
        )


def test_a_picture_that_cannot_be_measured_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"^broken.png: the picture cannot be read"):
        list(restore(tmp_path, "denoise", 25, method="input"))
    Image.new("RGB", (5, 5)).save(tmp_path / "broken.png")
    with pytest.raises(PictureError, match="too few to measure"):
        list(restore(tmp_path, "denoise", 25, method="input"))
    with pytest.raises(OptionError, match="needs pictures in color"):
        list(restore(tmp_path, "colorize", gray=True, method="input"))


def test_a_picture_is_measured_after_it_is_cropped_for_enlarging(tmp_path):
    """19 pixels are cropped to 16; without the border of 4, too few are left for SSIM."""
    Image.new("RGB", (19, 19), "red").save(tmp_path / "p.png")
    with pytest.raises(PictureError, match="too few to measure"):
        list(restore(tmp_path, "enlarge", 4, method="bicubic"))
    Image.new("RGB", (20, 20), "red").save(tmp_path / "p.png")
    (score,) = scores(tmp_path, "enlarge", 4, method="bicubic")
    assert score.ssim == pytest.approx(1)


def test_command(photos):
    result = CliRunner().invoke(
        app, ["evaluate", "restore", str(photos), "--enlarge", "2", "--method", "bicubic", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert {"name", "psnr", "ssim"} == set(json.loads(result.stdout.splitlines()[0]))
    result = CliRunner().invoke(app, ["evaluate", "restore", str(photos)])
    assert "give one of" in str(result.exception)


def test_lpips_where_it_can_be_had(photos, tmp_path, monkeypatch):
    """Package and weights are both needed, and nothing is fetched; gray pictures and all values in
    its frame of [-1, 1].
    """
    seen = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            seen.append(net)

        def forward(self, a, b):
            assert a.shape[1] == b.shape[1] == 3
            assert max(a.abs().max(), b.abs().max()) <= 1
            return (a - b).square().mean()[None, None, None, None]

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=LPIPS))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lpips.cache_clear()
    assert lpips() is None, "no weights"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    lpips.cache_clear()
    for gray in (False, True):
        found = next(scores(photos, "denoise", 25, method="input", gray=gray))
        assert 0 < found.lpips < (2 * 25 / 255) ** 2, "values beyond the frame are clipped"
    assert seen == ["alex"]
    result = CliRunner().invoke(
        app, ["evaluate", "restore", str(photos), "--denoise", "25", "--method", "input"]
    )
    assert result.stdout.splitlines()[-1].split()[3] == "LPIPS"
    lpips.cache_clear()


def test_pictures_without_room_or_color_are_left_out(photos):
    Image.new("RGB", (64, 64), "red").save(photos / "small.png")
    Image.new("L", (80, 80), 90).save(photos / "gray.png")
    for words, name in ((["--fill", "boxes"], "small.png"), (["--colorize"], "gray.png")):
        command = ["evaluate", "restore", str(photos), *words, "--method", "input"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 3, result.output
        assert f"left out: {name}: " in result.stderr
        assert "inf dB" not in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("task", "amount", "method", "message"),
    [
        ("denoise", -1, "input", "above 0 and at most 255"),
        ("enlarge", 9, "bicubic", "not between"),
        ("denoise", 25, "bicubic", "unknown method"),
        ("fill", "holes", "input", "unknown shape"),
        ("denoise", 25, "trained", "unknown method"),
        ("dejpeg", 0, "input", "within 1 to 100"),
    ],
    ids=str,
)
def test_wrong_options(photos, task, amount, method, message):
    with pytest.raises(OptionError, match=message):
        list(restore(photos, task, amount, method=method))


def test_what_cannot_be_measured_is_left_out_and_listed(photos):
    (photos / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(photos / "small.png")
    result = CliRunner().invoke(
        app, ["evaluate", "restore", str(photos), "--denoise", "25", "--method", "input"]
    )
    assert result.exit_code == 3
    assert "mean of 2" in result.stdout
    assert (
        result.stderr.count("left out") == 2
        and "broken.png: the picture cannot be read" in result.stderr
        and "small.png has 8x8 pixels" in result.stderr
    )
    for name in ("0.png", "1.png"):
        (photos / name).unlink()
    result = CliRunner().invoke(
        app, ["evaluate", "restore", str(photos), "--denoise", "25", "--method", "input"]
    )
    assert isinstance(result.exception, OptionError) and "none of the pictures" in str(
        result.exception
    )


def test_a_gray_picture_has_one_channel_however_it_is_stored(photos):
    """Independent noise in three equal channels would be easier to remove."""
    gray = [Image.open(photo).convert("L") for photo in sorted(photos.iterdir())]
    for k, picture in enumerate(gray):
        (picture.convert("RGB") if k else picture).save(photos / f"{k}.png")
    as_stored, converted = (
        list(damage(photos, "denoise", 25, gray=told)) for told in (False, True)
    )
    for one, other in zip(as_stored, converted, strict=True):
        assert one.y.shape[1] == 1
        assert torch.equal(one.y, other.y)
