"""A network learns to measure noise: the true levels, the training, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.corruption.base import parse
from sfumato.denoiser.restorer import RestorerConfig
from sfumato.errors import ConfigError, OptionError
from sfumato.tasks.restore.networks import check_undoes
from sfumato.train.loop import train
from sfumato.train.measurer import MeasurerJob, _noisy, true_levels
from sfumato.train.settings import TrainSettings

PHOTOS = [
    np.ascontiguousarray(image[100:260, 100:300].transpose(2, 0, 1))
    for image in load_sample_images().images
]
SMALL = RestorerConfig(widths=(8, 12), blocks=1, measures=True)


def level(squares):
    return float(squares.mean().sqrt()) * 127.5


@pytest.mark.parametrize(
    ("corruption", "coarse", "colored"),
    [("noise:20", 10, 20), ("grain:20:0.7", 15.5, 0), ("shot:20", 10, 20)],
)
def test_true_levels(corruption, coarse, colored):
    """White noise halves in squares of 2x2; grain is soft, and equal in all channels."""
    x = torch.from_numpy(PHOTOS[0][None] / 127.5 - 1).float()
    _, noise = _noisy(x, parse(corruption), torch.Generator().manual_seed(0))
    found = [level(squares) for squares in true_levels(noise)]
    assert found == pytest.approx([20, coarse, colored], rel=0.05, abs=0.01)


def test_the_noise_of_a_jpeg_is_what_compression_leaves():
    """The clean picture is compressed with the same quality."""
    x = torch.from_numpy(PHOTOS[0][None] / 127.5 - 1).float()
    seen, noise = _noisy(x, parse("noise:20+jpeg:90"), torch.Generator().manual_seed(0))
    assert 10 < level(noise.square()) < 20
    compressed = parse("jpeg:90")(x).y
    assert torch.allclose(seen - noise, compressed, atol=1e-6)
    _, none = _noisy(x, parse("noise:0+jpeg:30-95"), torch.Generator().manual_seed(1))
    assert level(none.square()) < 1


def test_the_loss_falls(tmp_path):
    torch.manual_seed(0)
    job = MeasurerJob(SMALL, PHOTOS, ["noise:5-60", "grain:5-60+jpeg:80-95"], 32)
    rows = torch.tensor([0, 1] * 4)
    before = float(job.loss(rows, torch.Generator().manual_seed(3)).detach())
    settings = TrainSettings(steps=30, batch=8, learning_rate=3e-3, warmup=5, dtype="float32")
    for _ in train(job, settings, tmp_path / "m", {}):
        pass
    after = float(job.loss(rows, torch.Generator().manual_seed(3)).detach())
    assert after < 0.5 * before
    assert job.preview().size[1] > 8 * 3 * 32, "eight times three rows"


def test_what_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for k, photo in enumerate(PHOTOS):
        Image.fromarray(photo.transpose(1, 2, 0)).save(tmp_path / "in" / f"{k}.png")

    def said(corruption, **more):
        plan = {"network": {"widths": [8, 12], "blocks": 1, "measures": True}, "size": 32}
        plan["network"] |= more.pop("network", {})
        settings = {"steps": 1, "batch": 2}
        (tmp_path / "plan.json").write_text(json.dumps({**plan, "settings": settings, **more}))
        words = ["train", "restorer", str(tmp_path / "in"), "--config", str(tmp_path / "plan.json")]
        words += ["--output", str(tmp_path / "m"), "--corruption", corruption]
        return CliRunner().invoke(app, words).exception

    for corruption in ("gray", "noise:5 | none", "jpeg:50"):
        error = said(corruption)
        assert isinstance(error, OptionError) and "must begin with noise, shot or grain" in str(
            error
        )
    for wrong in ({"size": 12}, {"size": 33}, {"vivid": True}):
        assert isinstance(said("noise:5", **wrong), ConfigError)
    assert not (tmp_path / "m").exists()
    assert said("noise:5") is None
    with pytest.raises(OptionError, match="measures noise, and restores no pictures"):
        check_undoes(str(tmp_path / "m"), {"denoise"})
    with pytest.raises(OptionError, match="measuring noise"):
        check_undoes("noise_level", {"denoise"})
