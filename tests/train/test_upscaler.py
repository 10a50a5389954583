"""The upscaler: trained on one model's pictures, part of its folder, used by create and restore."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import DataError, ModelError, OptionError
from sfumato.hub.describe import describe
from sfumato.hub.load import load
from sfumato.progress import result_of
from sfumato.space.detail import Detail
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import check, make_plan
from sfumato.tasks.create.run import create, stream
from sfumato.tasks.explain.experiments import explain
from sfumato.tasks.explain.trace import trace
from sfumato.train.pack import pack
from sfumato.train.upscaler import train_upscaler
from sfumato.types import Progress

NETWORK = {"block_out_channels": [32, 32, 32], "norm_num_groups": 8}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A tiny model of 16x16 pictures with an upscaler that was trained for a moment."""
    place = tmp_path_factory.mktemp("upscaler")
    data = place / "data"
    data.mkdir()
    for k, color in enumerate(("red", "green", "blue", "gold")):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(color, (8 * k, 10, 8 * k + 30, 50))
        picture.save(data / f"{color}.png")
        (data / f"{color}.txt").write_text(f"a {color} box")
    plan = {"network": NETWORK, "settings": {"steps": 4, "batch": 2, "preview_every": 4}}
    (place / "plan.json").write_text(json.dumps(plan))
    shutil.copytree(tiny, place / "model")
    given = {"device": "cpu", "dtype": "float32"}
    list(train_upscaler(data, place / "model", str(tiny), place / "plan.json", given))
    return place / "model"


def options(folder, **more):
    return CreateOptions(model=str(folder), seed=1, steps=2, **more)


def test_it_becomes_a_part_of_the_model(folder, tiny):
    model = load(folder)
    assert model.upscaler is not None and "upscaler" in model.parts
    assert (folder / "upscaler" / "previews" / "0000004.png").exists()
    with_it, without = (describe(str(path))["megabytes"] for path in (folder, tiny))
    assert with_it > without


@pytest.mark.parametrize(
    ("size", "worked", "times"),
    [
        ((16, 16), (16, 16), 0),
        ((64, 64), (16, 16), 1),
        ((40, 40), (16, 16), 1),
        ((64, 32), (16, 8), 1),
        ((100, 100), (16, 16), 2),
        ((8, 8), (16, 16), 0),
        ((10, 5), (16, 8), 0),
    ],
)
def test_a_picture_of_another_size_is_made_at_the_models_own(folder, size, worked, times):
    model = load(folder)
    plan = make_plan(options(folder, size=size), model)
    assert (plan.size, plan.enlarged) == (worked, times)
    assert create("a red apple", options(folder, size=size), model)[0].picture.size == size


def test_without_an_upscaler_the_model_works_at_the_size_itself(tiny):
    plan = make_plan(options(tiny, size=(64, 64)), load(tiny))
    assert (plan.size, plan.enlarged) == ((64, 64), 0)


def test_a_smaller_picture_is_the_picture_of_the_models_own_size_shrunk(folder):
    model = load(folder)
    own, small = (create("a fox", options(folder, size=n), model)[0].picture for n in (16, 8))
    assert small.tobytes() == own.resize((8, 8), Image.Resampling.LANCZOS).tobytes()


def test_each_picture_is_its_own_in_any_batch(folder):
    model, texts = load(folder), ["a red apple", "a blue house", "the fox"]
    together = create(texts, options(folder, size=(64, 64), batch=3), model)
    alone = create(texts[1], options(folder, size=(64, 64), batch=1), model)[0]
    a, b = (np.asarray(p.picture).astype(int) for p in (together[1], alone))
    assert np.abs(a - b).max() <= 1
    events = list(stream(texts, options(folder, size=(64, 64)), model))
    told = [e for e in events if isinstance(e, Progress)]
    assert [(e.what, e.done, e.total) for e in told] == [("enlarging", k, 12) for k in range(13)]
    told = stream("a", options(folder, size=(100, 100)), model)
    shares = [e.done / e.total for e in told if isinstance(e, Progress)]
    assert shares[4] == 4 / (4 * 17), "the second enlargement takes 16 times as long"
    assert shares == sorted(shares) and shares[-1] == 1


def test_it_is_read_only_if_a_picture_is_enlarged(folder):
    model = load(folder)
    create("a", options(folder), model)
    assert "upscaler" not in model.loaded
    create("a", options(folder, size=(64, 64)), model)
    assert "upscaler" in model.loaded


def test_a_trace_names_the_sizes_of_the_layers_and_loads_nothing_twice(folder, monkeypatch):
    model = load(folder)
    told = [trace("a", options(folder, size=(64, 64)), model) for _ in range(2)]
    tall, wide = told[0].steps[0].x.shape[1:]
    assert told[0].layers[0].split(", ")[1] == f"{wide}x{tall}"
    upscaler = model.upscaler
    monkeypatch.setattr(type(model), "_load_upscaler", None)
    trace("a", options(folder, size=(64, 64)), model)
    assert model.upscaler is upscaler


def test_too_large_is_told(folder):
    model = load(folder)
    with pytest.raises(OptionError, match="generates sides of up to 1024 pixels"):
        check(["a red apple"], make_plan(options(folder, size=(2048, 64)), model))


def test_a_picture_to_start_from_is_enlarged_too(folder, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    made = create("a red apple", options(folder, source=str(tmp_path / "red.png")))[0]
    assert made.picture.size == (64, 64)


def test_an_enlarged_picture_on_a_clear_ground_is_explained(folder, tmp_path):
    asked = options(folder, size=(64, 64), transparent=True)
    found = explain("a red apple", asked)
    (run,) = found.runs
    assert run.trace.made.picture.size == (64, 64) and run.trace.made.picture.mode == "RGBA"
    assert run.decoded[0]["denoised"].size == run.reconstruction.picture.size == (16, 16)
    alone = create("a red apple", asked)[0].picture
    assert run.trace.made.picture.tobytes() == alone.tobytes()
    found.write(tmp_path / "page.html")


def test_details_are_kept_exactly():
    x, small = torch.rand(2, 3, 16, 12) * 2 - 1, torch.rand(2, 3, 4, 3) * 2 - 1
    z = Detail().encode(x, small)
    assert z.shape == (2, 48, 4, 3)
    assert torch.allclose(Detail().decode(z, small), x, atol=1e-6)
    noise = torch.randn(4, 48, 8, 8)
    spread = Detail().decode(noise, torch.zeros(4, 3, 8, 8)).std() * Detail().config.scaling_factor
    assert abs(float(spread) - 1) < 0.02, "white noise stays white"


def test_restore_takes_it_by_the_models_name(folder, run, tmp_path):
    rgba = np.zeros((10, 14, 4), np.uint8)
    rgba[2:8, 3:11] = (200, 30, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "icon.png")
    words = ("--enlarge", 4, "--model", folder, "--prompt", "a red apple", "--seed", 2)
    code, out, err = run("restore", tmp_path / "icon.png", *words, "--output", "large.png")
    assert code == 0, err
    with Image.open("large.png") as made:
        assert made.size == (56, 40) and made.mode == "RGBA"
    settings = json.loads(run("inspect", "large.png")[1])
    assert settings["engine"] == "upscaler" and settings["seed"] == 2
    to = ("--output", "small.png")
    code, _, err = run("restore", tmp_path / "icon.png", "--enlarge", 2, "--model", folder, *to)
    assert code == 0, err
    with Image.open("small.png") as small:
        assert small.size == (28, 20)
    again = (*words, "--guidance-scale", 2, "--output", "no.png")
    code, _, err = run("restore", tmp_path / "icon.png", *again)
    assert code == 2 and "without guidance" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--enlarge", 4, "--model", "MODEL"), "enlarges to at most"),
        (("--denoise", "--prompt", "a dog"), "--prompt"),
        (("--denoise", "--prompt", "a dog", "--model", "noise"), "not a text-to-image model"),
    ],
)
def test_what_cannot_be_enlarged_so(folder, run, tmp_path, words, said):
    Image.new("RGB", (400, 400)).save(tmp_path / "photo.png")
    words = [folder if word == "MODEL" else word for word in words]
    code, _, err = run("restore", tmp_path / "photo.png", *words, "--output", "out.png")
    assert code == 2 and said in err
    assert not (tmp_path / "out.png").exists()


def test_an_upscaler_of_another_model_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "upscaler" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 52}))
    with pytest.raises(ModelError, match="shape"):
        _ = load(tmp_path / "m").upscaler
    shutil.rmtree(tmp_path / "m" / "upscaler")
    shutil.copytree(tmp_path / "m" / "unet", tmp_path / "m" / "upscaler")
    with pytest.raises(ModelError, match="no upscaler of this model"):
        _ = load(tmp_path / "m").upscaler


def test_the_alpha_of_an_icon_gets_an_edge_of_its_own(folder):
    from sfumato.data.photo import Photo
    from sfumato.tasks.restore.enlarge import enlarge
    from sfumato.tasks.restore.options import RestoreOptions

    model = load(folder)
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    photo = Photo(np.full((8, 8, 3), 120, np.uint8), alpha=alpha)
    asked = RestoreOptions(enlarge=4, model=str(folder), seed=0, samples=2)
    *events, last = enlarge(photo, asked, model, model.upscaler)
    assert last.photo.alpha.shape == (32, 32) and last.report["seed"] == 1
    told = [e for e in events if isinstance(e, Progress)]
    assert [e.done for e in told] == list(range(1, int(told[0].total) + 1))


def test_pictures_below_the_size_are_left_out_for_training(folder, tiny, tmp_path):
    """Enlarged pictures would be blurred targets."""
    for name, side in (("large", 64), ("small", 32)):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a box")
    with pytest.raises(DataError, match="none of 2 pictures"):
        result_of(pack(tmp_path, 128, tmp_path / "c", captions=True, enlarge=False))
    found = result_of(pack(tmp_path, 64, tmp_path / "c", captions=True, enlarge=False))
    assert found.skipped == ["small.png: 32x32 pixels; 64x64 are needed"]
