"""The settings in a picture make the same picture again, or one like it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from sfumato import metadata
from sfumato.hub.catalog import BUNDLED
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_settings_survive_every_format_and_make_the_same_bytes(run, tiny, tmp_path, suffix):
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    words = (
        "--model",
        tiny,
        "--seed",
        9,
        "--sampler",
        "euler a",
        "--schedule",
        "karras",
        "--steps",
        3,
        "--negative",
        "blur, fog",
    )
    assert run("create", "ein (röter:1.3) Apfel 🍎", *words, "--output", first)[0] == 0
    assert run("create", "--again", first, "--output", second)[0] == 0
    assert first.read_bytes() == second.read_bytes()
    _, out, _ = run("inspect", first)
    assert "Negative prompt: blur, fog" in out
    assert "Sampler: Euler a, Schedule type: Karras" in out


def test_again_with_something_new(run, tiny, tmp_path):
    words = ("--model", tiny, "--seed", 9, "--steps", 2)
    assert run("create", "a red apple", *words, "--output", "one.png")[0] == 0
    assert run("create", "a blue house", *words, "--output", "house.png")[0] == 0
    assert run("create", "a blue house", "--again", "one.png", "--output", "again.png")[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "house.png").read_bytes()
    assert (
        run("create", "--again", "one.png", "--from", "house.png", "--output", "from.png")[0] == 0
    )
    assert run("create", "--again", "one.png", "--best-of", 3, "--output", "best.png")[0] == 0
    fresh = run("create", "a red apple", *words, "--best-of", 3, "--output", "fresh.png", "--json")[
        1
    ]
    assert (
        metadata.read(tmp_path / "best.png")[0]["candidate"]
        == json.loads(fresh)["settings"]["candidate"]
    )


def test_again_with_another_model_or_source(run, tiny, tmp_path):
    words = ("--seed", 9, "--steps", 2)
    assert run("create", "a red apple", *words, "--style", "noto", "--output", "icon.png")[0] == 0
    assert run("create", "--again", "icon.png", "--model", tiny, "--output", "tiny.png")[0] == 0, (
        "that model has no such style"
    )
    assert (
        run("create", "a red apple", "--model", tiny, "--seed", 9, "--output", "fresh.png")[0] == 0
    )
    assert np.array_equal(pixels("tiny.png"), pixels("fresh.png"))
    Image.new("RGB", (16, 16), "red").save("one.png")
    Image.new("RGB", (16, 16), "blue").save("two.png")
    assert (
        run("create", "x", "--model", tiny, *words, "--from", "one.png", "--output", "from.png")[0]
        == 0
    )
    (tmp_path / "one.png").unlink()
    assert (
        run("create", "--again", "from.png", "--from", "two.png", "--output", "other.png")[0] == 0
    )
    code, _, err = run("create", "--again", "from.png", "--output", "no.png")
    assert code == 2
    assert "which does not exist any more" in err


def test_again_of_a_picture_that_began_with_a_prior(run, tiny, tmp_path):
    made = create("x", CreateOptions(model=str(tiny), seed=1, steps=1))[0]
    metadata.save(made.picture, tmp_path / "old.png", {**made.settings, "prior": 0.65}, "")
    code, _, err = run("create", "--again", "old.png", "--output", "no.png")
    assert code == 2
    assert err.count("\n") == 1
    assert "generated from a prior's estimate" in err
    assert run("create", "--again", "old.png", "--model", tiny, "--output", "new.png")[0] == 0, (
        "another model makes another picture anyway"
    )
    metadata.save(made.picture, tmp_path / "noise.png", {**made.settings, "prior": 1.0}, "")
    assert run("create", "--again", "noise.png", "--output", "same.png")[0] == 0
    assert np.array_equal(pixels("same.png"), np.asarray(made.picture)), (
        "it began with noise alone, and so it does again"
    )


@pytest.mark.parametrize("part", ["vae", "source"])
def test_again_needs_all_that_the_picture_was_made_from(part, run, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(tmp_path / "s.png")
    given = ("--from", "s.png") if part == "source" else ()
    assert (
        run(
            "create",
            "a red apple",
            "--model",
            "m",
            "--seed",
            9,
            "--steps",
            2,
            *given,
            "--output",
            "one.png",
        )[0]
        == 0
    )
    assert run("create", "--again", "one.png", "--output", "two.png")[0] == 0
    if part == "source":
        Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(tmp_path / "s.png")
    else:
        path = tmp_path / "m" / part / "diffusion_pytorch_model.safetensors"
        save_file({k: 1.3 * v for k, v in load_file(path).items()}, path)
    code, _, err = run("create", "--again", "one.png", "--output", "three.png")
    assert code == 2
    assert "the picture cannot be reproduced" in err


def test_again_needs_the_scheduler_and_the_words_of_the_style_of_then(run, tmp_path):
    shutil.copytree(BUNDLED / "icons", tmp_path / "m")
    words = (
        "create",
        "a red apple",
        "--model",
        "m",
        "--seed",
        9,
        "--steps",
        2,
        "--best-of",
        1,
        "--output",
        "one.png",
    )
    assert run(*words)[0] == 0
    settings, parameters = metadata.read(tmp_path / "one.png")
    assert settings["styled"] == parameters.splitlines()[0] == "a red apple, Fluent flat emoji", (
        "what other viewers can repeat"
    )
    own, scheduler = tmp_path / "m/sfumato.json", tmp_path / "m/scheduler/scheduler_config.json"
    kept = own.read_text(), scheduler.read_text()
    own.write_text(kept[0].replace("Fluent flat emoji", "oil painting"))
    code, _, err = run("create", "--again", "one.png", "--output", "two.png")
    assert code == 2
    assert 'the style is "oil painting" now' in err
    own.write_text(kept[0])
    scheduler.write_text(kept[1].replace("trailing", "leading"))
    assert (
        "the picture cannot be reproduced"
        in run("create", "--again", "one.png", "--output", "two.png")[2]
    )


def test_again_from_another_folder_and_with_a_sampler_without_eta(run, tiny, tmp_path, monkeypatch):
    Image.new("RGB", (16, 16), "red").save("s.png")
    words = ("--model", tiny, "--steps", 2, "--seed", 1)
    assert run("create", "x", *words, "--from", "s.png", "--output", "one.png")[0] == 0
    assert (
        run("create", "x", *words, "--sampler", "ddim", "--eta", 0.5, "--output", "eta.png")[0] == 0
    )
    assert (
        run("create", "--again", "eta.png", "--sampler", "euler", "--output", "euler.png")[0] == 0
    )
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert run("create", "--again", "../one.png", "--output", "two.png")[0] == 0
    assert (tmp_path / "sub/two.png").exists()
