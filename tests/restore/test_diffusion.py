"""Restoring with a diffusion model, and the choice of the engine."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import make_tiny
from tests.restore.common import PHOTO, run

from sfumato.data.photo import Photo
from sfumato.errors import OptionError
from sfumato.hub.load import load
from sfumato.image import LUMA
from sfumato.runtime import Streams
from sfumato.tasks.restore.diffusion import _Job, diffuse
from sfumato.tasks.restore.engines import restore
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.run import stream


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
    apart = np.abs((made.values.astype(float) - PHOTO[:32, :48]) @ np.array(LUMA))
    assert apart.max() <= 1, "the measurement is kept to rounding"
    assert answer.report["largest_disagreement"] < 0.01


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


def test_the_upscaler_only_enlarges():
    """Other repairs are done by the diffusion engine, and options of the networks are refused."""
    picture = Photo(PHOTO[:16, :24])
    both = RestoreOptions(enlarge=2, colorize=True, model="icons", steps=2, seed=0)
    made = restore(picture, both)
    assert made.report["engine"] == "diffusion" and made.photo.size == (48, 32)
    with pytest.raises(OptionError, match="--ensemble need the restoration networks"):
        restore(picture, RestoreOptions(enlarge=2, ensemble=True, model="icons"))


def test_an_undamaged_photo_is_still_enlarged(tiny):
    flat = Photo(np.full((16, 16, 3), 90, np.uint8))
    scratches = {"fill_scratches": True, "steps": 2, "model": str(tiny), "engine": "diffusion"}
    assert restore(flat, RestoreOptions(**scratches, enlarge=2)).photo.size == (32, 32)
    with pytest.raises(OptionError, match="no scratches were found"):
        restore(flat, RestoreOptions(**scratches))


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


def test_gray_noise_is_removed_as_noise_in_color(tiny):
    """Sampling starts from the photo, and no measurement is to be met."""
    gray = PHOTO[:32, :48, :1]
    options = RestoreOptions(denoise=30, engine="diffusion", model=str(tiny), seed=1)
    one, three = (
        _Job(Photo(values), options, load(tiny), None, 0.2)
        for values in (gray, gray.repeat(3, axis=2))
    )
    assert not one.linear
    assert torch.equal(one.sigmas(), three.sigmas())
    made = restore(Photo(gray), options)
    assert made.photo.values.shape == gray.shape
    assert made.report["largest_disagreement"] == 0


def test_no_disagreement_is_told_about_pixels_that_stay(tiny):
    options = {"fill_box": (5, 5, 9, 9), "steps": 2, "engine": "diffusion", "model": str(tiny)}
    made = restore(Photo(PHOTO[:32, :48, :1]), RestoreOptions(**options, seed=0))
    assert made.report["largest_change_elsewhere"] == 0
    assert made.report["largest_disagreement"] < 0.01


@pytest.mark.parametrize("options", [{"denoise": 15}, {"colorize": True}], ids=str)
def test_diffusion_leaves_clear_pixels_alone(options, tiny):
    values, alpha = PHOTO[:16, :16].copy(), np.full((16, 16), 255, np.uint8)
    alpha[:, 8:] = 0
    asked = RestoreOptions(**options, engine="diffusion", model=str(tiny), seed=1)
    made = restore(Photo(values, alpha), asked).photo.values
    assert np.array_equal(made[:, 8:], values[:, 8:])
    assert not np.array_equal(made[:, :8], values[:, :8])
