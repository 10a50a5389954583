"""sfumato evaluate restore: known figures come out, wrong input gets one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.corruption.resample import Downscale, interpolate
from sfumato.errors import OptionError
from sfumato.tasks.evaluate import restore


@pytest.fixture
def photos(tmp_path):
    for k, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels[:240, :321]).save(tmp_path / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize("gray", [False, True])
def test_noise_that_stays_has_its_analytic_figure(photos, gray):
    for sigma, want in ((15, 24.61), (25, 20.17), (50, 14.15)):
        scores = list(restore(photos, denoise=sigma, gray=gray))
        assert np.mean([s.psnr for s in scores]) == pytest.approx(want, abs=0.03)
    assert [s.psnr for s in scores] == [s.psnr for s in restore(photos, denoise=50, gray=gray)], "the noise has a fixed seed"


def test_bicubic_is_between_nothing_and_all(photos):
    scores = {factor: np.mean([s.psnr for s in restore(photos, enlarge=factor)]) for factor in (2, 3, 4)}
    assert 45 > scores[2] > scores[3] > scores[4] > 20


def test_interpolation_keeps_straight_lines():
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 1, 16, 16)
    larger = interpolate(ramp, (32, 32))[0, 0, 10, 8:-8]
    torch.testing.assert_close(larger, (torch.arange(32.0, dtype=torch.float64)[8:-8] + 0.5) / 2 - 0.5)
    assert (Downscale(2).apply(interpolate(ramp, (32, 32))) - ramp)[..., 4:-4].abs().max() < 1e-9


def test_command(photos):
    result = CliRunner().invoke(app, ["evaluate", "restore", str(photos), "--enlarge", "2", "--json"])
    assert result.exit_code == 0, result.output
    assert {"name", "psnr", "ssim"} == set(json.loads(result.stdout.splitlines()[0]))


@pytest.mark.parametrize(("options", "message"), [
    ({}, "either"), ({"denoise": 25, "enlarge": 2}, "either"), ({"denoise": -1}, "within 0 to 255"), ({"enlarge": 9}, "not between"),
    ({"denoise": 25, "method": "bicubic"}, "unknown method"),
], ids=str)  # fmt: skip
def test_wrong_options(photos, options, message):
    with pytest.raises(OptionError, match=message):
        list(restore(photos, **options))
