"""The command line on a tiny random model: files, settings, and one clear sentence for each wrong
input.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny

from sfumato import image, metadata
from sfumato.cli.command import help_of
from sfumato.cli.create import inspect as inspect_command
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.errors import OptionError
from sfumato.hub.catalog import BUNDLED
from sfumato.hub.config import Defaults
from sfumato.hub.load import load
from sfumato.hub.save import save_network
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.output import Saver
from sfumato.tasks.create.prompts import Prompt
from sfumato.tasks.create.run import create


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_create_writes_and_says_where(run, tiny, tmp_path):
    code, out, _ = run("create", "a red apple", "--model", tiny, "--seed", 3, "--output", "a.png")
    assert (code, out) == (0, "a.png\n")
    assert pixels("a.png").shape == (16, 16, 3)
    settings, text = metadata.read(tmp_path / "a.png")
    assert settings["seed"] == 3
    assert len(settings["sigmas"]) == settings["steps"] + 1
    assert text.splitlines()[0] == "a red apple"
    assert "Steps: 4, Sampler: DPM++ 2M" in text


def test_json_count_grid_and_names(run, tiny, tmp_path):
    code, out, _ = run(
        "create",
        "one",
        "two",
        "--model",
        tiny,
        "--seed",
        3,
        "--count",
        2,
        "--output",
        "f",
        "--json",
        "--grid",
    )
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(r["path"], r["seed"]) for r in lines] == [
        ("f/one-3.png", 3),
        ("f/one-4.png", 4),
        ("f/two-3.png", 3),
        ("f/two-4.png", 4),
    ]
    assert (tmp_path / "f" / "sheet.png").exists()
    assert pixels("f/one-3.png").shape == (16, 16, 3)
    assert not np.array_equal(pixels("f/one-3.png"), pixels("f/one-4.png"))


def test_an_interrupt_says_so(run, tiny, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sfumato.tasks.create.run.Streams", interrupted)
    code, _, err = run("create", "x", "--model", tiny, "--output", "x.png")
    assert code == 130
    assert err.strip().endswith("sfumato: interrupted")


def test_no_two_pictures_share_a_file(run, tiny, tmp_path):
    # longer than a name
    same = "an apple that is as red as an apple can be on a late day in autumn"
    words = ("--model", tiny, "--seed", 3, "--steps", 1, "--output", "f")
    code, out, err = run("create", "a cat!", "a cat?", "A cat", same, f"{same}, sliced", *words)
    assert code == 0, err
    assert len(set(out.split())) == 5
    assert out.split()[:3] == ["f/a-cat-3.png", "f/a-cat-2-3.png", "f/A-cat-3-3.png"]
    assert all((tmp_path / name).exists() for name in out.split())
    (tmp_path / "p.jsonl").write_text(
        '{"id": "a/b", "prompt": "one"}\n{"id": "a-b", "prompt": "two"}\n'
    )
    assert run("create", "--prompts", "p.jsonl", "--model", tiny, "--steps", 1, "--output", "g")[
        1
    ].split() == ["g/a-b.png", "g/a-b-2.png"]


def test_a_sheet_has_the_order_of_the_prompts(run, tiny, tmp_path):
    rows = [{"prompt": "one"}, {"prompt": "two", "steps": 2}, {"prompt": "three"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("--model", tiny, "--steps", 1, "--seed", 1, "--output", "d", "--grid", "--json")
    lines = run("create", "--prompts", "p.jsonl", *words)[1].splitlines()
    path = {line["settings"]["prompt"]: line["path"] for line in map(json.loads, lines)}
    in_order = [Image.open(path[row["prompt"]]).convert("RGB") for row in rows]
    assert (pixels("d/sheet.png") == np.asarray(image.sheet(in_order))).all()


def test_a_sheet_replaces_nothing_unless_told(run, tiny, tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f/sheet.png").write_bytes(b"mine")
    words = ("create", "one", "two", "--model", tiny, "--steps", 1, "--grid", "--output", "f")
    code, _, err = run(*words)
    assert code == 2
    assert "sheet.png exists already" in err
    assert {p.name for p in (tmp_path / "f").iterdir()} == {"sheet.png"}
    assert run(*words, "--overwrite")[0] == 0
    assert pixels("f/sheet.png").ndim == 3


def test_a_longer_prompt_in_the_batch_changes_no_other_picture(tiny):
    long, options = "a red apple " * 12, CreateOptions(model=str(tiny), seed=7, steps=2)
    alone = np.asarray(create("a red apple", options)[0].picture)
    made = create(["a red apple", long, "a red apple"], options)
    assert [m.prompt for m in made] == ["a red apple", long, "a red apple"]
    assert np.abs(np.asarray(made[0].picture).astype(int) - alone).max() <= 1
    assert np.abs(np.asarray(made[2].picture).astype(int) - alone).max() <= 1


LONG = [
    pytest.param({"steps": 1000, "sampler": name}, marks=pytest.mark.slow)
    for name in ("dpmpp_2m", "unipc")
]


@pytest.mark.parametrize("options", [{"steps": 200, "schedule": "beta"}, *LONG])
def test_more_steps_than_there_are_levels(options, tiny):
    made = create("a red apple", CreateOptions(model=str(tiny), seed=7, **options))[0]
    levels = made.settings["sigmas"]
    assert len(set(levels)) == len(levels) > 100
    assert np.isfinite(np.asarray(made.picture)).all()


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


def test_best_of_keeps_the_try_that_matches_best_and_names_it(run, tiny, tmp_path):
    words = ("create", "a red apple", "--model", tiny, "--seed", 9, "--steps", 3)
    assert run(*words, "--best-of", 4, "--output", "best.png")[0] == 0
    assert run(*words, "--best-of", 4, "--batch", 3, "--output", "parts.png")[0] == 0
    assert np.abs(pixels("parts.png") - pixels("best.png")).max() <= 1, (
        "tries need not be made at once"
    )
    model = load(str(tiny))
    tries = [
        create("a red apple", CreateOptions(seed=9, steps=3, candidate=k), model)[0].picture
        for k in range(4)
    ]
    shown = torch.cat([image.to_tensor(p) for p in tries])
    scores = (
        model.matcher.pictures(shown) @ model.matcher.texts(model.text.pooled(["a red apple"]))[0]
    )
    chosen = metadata.read(tmp_path / "best.png")[0]["candidate"]
    assert chosen == int(scores.argmax())
    assert np.array_equal(pixels("best.png"), np.asarray(tries[chosen]))
    assert np.array_equal(
        np.asarray(create("a red apple", CreateOptions(seed=9, steps=3), model)[0].picture),
        np.asarray(tries[0]),
    )
    assert run("create", "--again", "best.png", "--output", "again.png")[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "best.png").read_bytes()
    usual = replace(model, defaults=model.defaults.model_copy(update={"best_of": 4}))
    made = create("a red apple", CreateOptions(seed=9, steps=3), usual)[0]
    assert (made.settings["best_of"], made.settings["candidate"]) == (4, chosen), (
        "the model's own number"
    )
    assert (
        create("a red apple", CreateOptions(seed=9, steps=3, best_of=1), usual)[0].settings[
            "candidate"
        ]
        == 0
    )


@pytest.mark.parametrize("schedule", ["uniform", "leading", "trailing", "simple", "beta"])
def test_strength_says_where_a_walk_begins(tiny, tmp_path, schedule):
    """However many steps are asked for: at a tenth of the times, not at as many levels as the
    schedule has.
    """
    Image.new("RGB", (16, 16), "red").save(tmp_path / "s.png")
    made = create(
        "x",
        CreateOptions(
            model=str(tiny),
            source=str(tmp_path / "s.png"),
            strength=0.1,
            steps=300,
            schedule=schedule,
            seed=1,
        ),
    )[0]
    more = create(
        "x",
        CreateOptions(
            model=str(tiny),
            source=str(tmp_path / "s.png"),
            strength=0.1,
            steps=90,
            schedule=schedule,
            seed=1,
        ),
    )[0]
    assert made.settings["sigmas"][0] < 1.3 * more.settings["sigmas"][0]
    assert len(made.settings["sigmas"]) > 60


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


def test_options_take_paths(tmp_path):
    assert CreateOptions(source=tmp_path / "a.png").source == str(tmp_path / "a.png")


def test_settings_name_the_model_that_was_used(tiny):
    model = load(str(tiny))
    assert create("x", CreateOptions(seed=1, steps=1), model)[0].settings["model"] == str(tiny)


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


def test_deep_json_and_prompts_that_begin_with_a_bracket(run, tiny, tmp_path):
    deep = "[" * 100_000
    (tmp_path / "deep.jsonl").write_text(deep)
    code, _, err = run("create", "--prompts", "deep.jsonl", "--model", tiny, "--output", "c")
    assert (code, len(err.splitlines())) == (2, 1)
    info = PngInfo()
    info.add_text("sfumato", deep)
    Image.new("RGB", (8, 8)).save(tmp_path / "deep.png", pnginfo=info)
    assert metadata.read(tmp_path / "deep.png")[0] is None
    (tmp_path / "p.txt").write_text("{{masterpiece}}, a red apple\n")
    assert (
        run("create", "--prompts", "p.txt", "--model", tiny, "--steps", 1, "--output", "c")[0] == 0
    )


def test_options_of_rows_that_would_be_ignored(run, tiny, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "strength": 0.3}')
    code, _, err = run("create", "--prompts", "p.jsonl", "--model", tiny, "--output", "c")
    assert code == 2
    assert "--strength needs --from" in err
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "negative_prompt": ""}')
    assert (
        run(
            "create",
            "--prompts",
            "p.jsonl",
            "--model",
            tiny,
            "--steps",
            1,
            "--negative",
            "y",
            "--output",
            "d",
        )[0]
        == 0
    )
    (made,) = (tmp_path / "d").iterdir()
    assert metadata.read(made)[0]["negative_prompt"] == "", "a row undoes what is said for all"


def test_the_least_share_of_a_walk(run, tiny, tmp_path):
    Image.new("RGB", (16, 16), "red").save("s.png")
    assert (
        run(
            "create",
            "x",
            "--model",
            tiny,
            "--steps",
            2,
            "--strength",
            "1e-300",
            "--from",
            "s.png",
            "--output",
            "o.png",
        )[0]
        == 0
    )


def test_rows_have_options_of_their_own(run, tiny, tmp_path):
    (tmp_path / "P.CSV").write_text("prompt,steps,seed\none,2,4\ntwo,,5\n")
    lines = run(
        "create", "--prompts", "P.CSV", "--model", tiny, "--steps", 3, "--output", "c", "--json"
    )[1].splitlines()
    assert [(r["settings"]["steps"], r["seed"]) for r in map(json.loads, lines)] == [(2, 4), (3, 5)]
    Image.new("RGB", (16, 16), "red").save("s.png")
    rows = [{"prompt": "a\u2028b", "size": "32x24"}, {"prompt": "c", "source": "s.png"}]
    (tmp_path / "p.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8"
    )
    words = ("--model", tiny, "--steps", 2, "--strength", 0.4, "--output", "d", "--json", "--grid")
    lines = run("create", "--prompts", "p.jsonl", *words)[1].splitlines()
    assert [r["settings"]["size"] for r in map(json.loads, lines)] == [[32, 24], [16, 16]]
    assert pixels("d/sheet.png").shape == (2 + 24 + 2, 2 * (2 + 32) + 2, 3), "cells of the largest"


@pytest.mark.parametrize(("name", "value"), [("loras", "mine/"), ("fast", True)])
def test_a_row_cannot_change_the_model(run, tiny, tmp_path, name, value):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "one", name: value}))
    code, _, err = run("create", "--prompts", "p.jsonl", "--model", tiny)
    assert code == 2 and f"{name} is not an option of a row" in err


def test_a_strength_needs_a_picture_in_python_too(tiny):
    with pytest.raises(OptionError, match="--strength needs --from"):
        create("a", CreateOptions(model=str(tiny), strength=0.2))


def test_what_a_row_cannot_have_is_said_before_any_work(run, tiny, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "one", "id": "one"}\n{"prompt": "two", "style": "bauhaus"}\n'
    )
    code, _, err = run("create", "--prompts", "p.jsonl", "--model", tiny, "--output", "c")
    assert code == 2
    assert "unknown style" in err
    assert not (tmp_path / "c").exists()


def test_a_file_that_is_there_is_refused_before_any_work(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"precious")
    for output, item in ((tmp_path / "cat.png", Prompt("x")), (tmp_path, Prompt("x", "cat"))):
        with pytest.raises(OptionError, match="exists already"):
            Saver(output, overwrite=False, single=True).check([item], {"count": 1})  # no seed
    with pytest.raises(OptionError, match="two pictures"):
        Saver(tmp_path / "sheet.png", overwrite=True, single=True).check(
            [Prompt("x")], {"count": 1}, grid=True
        )


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.jsonl", '{"prompt": "a", "seed": "abc"}', "seed='abc'"),
        ("p.jsonl", '{"prompt": 5}', "needs a prompt"),
        ("p.jsonl", '{"prompt": "a", "seed": [1]}', "seed="),
        ("p.jsonl", '{"prompt": "a", "stepz": 3}', "stepz is not an option of a row"),
        ("p.csv", "prompt,seed\na,abc", "row 1: seed"),
        ("p.csv", "id,prompt\nx", "row 1: each row needs a prompt"),
        ("p.jsonl", "[1]", "needs a prompt"),
        ("p.csv", "prompt,seed\na cat, a dog,3", "quotation marks"),
    ],
)
def test_wrong_rows(name, text, sentence, run, tiny, tmp_path):
    (tmp_path / name).write_text(text)
    code, _, err = run("create", "--prompts", name, "--model", tiny, "--output", "c")
    assert code == 2
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_prompt_files(run, tiny, tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.jsonl").write_text(
        '{"id": "x", "prompt": "one"}\n{"id": "../../y", "prompt": "two", "seed": 5}\n'
    )
    (tmp_path / "p.csv").write_text("prompt,id\none,first\n")
    assert (
        len(run("create", "--prompts", "p.txt", "--model", tiny, "--output", "t")[1].split()) == 2
    )
    assert run("create", "--prompts", "p.jsonl", "--model", tiny, "--seed", 1, "--output", "j")[
        1
    ].split() == ["j/x.png", "j/y.png"]
    assert metadata.read(tmp_path / "j" / "y.png")[0]["seed"] == 5
    (tmp_path / "p.tsv").write_text("prompt\tid\na, b\ttabs\n")
    assert run("create", "--prompts", "p.tsv", "--model", tiny, "--output", "c")[1].split() == [
        "c/tabs.png"
    ]
    (tmp_path / "s.csv").write_text("prompt;id\nc, d;semicolons\n")
    assert run("create", "--prompts", "s.csv", "--model", tiny, "--output", "c")[1].split() == [
        "c/semicolons.png"
    ]
    assert run("create", "--prompts", "p.csv", "--model", tiny, "--output", "c")[1].split() == [
        "c/first.png"
    ]


def test_from_and_mask_keep_the_rest(run, tiny, tmp_path):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    source.save(tmp_path / "s.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[4:10, 2:12] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert (
        run(
            "create",
            "x",
            "--model",
            tiny,
            "--from",
            "s.png",
            "--mask",
            "m.png",
            "--seed",
            1,
            "--output",
            "o.png",
        )[0]
        == 0
    )
    made, before, hidden = pixels("o.png"), np.asarray(source).astype(int), mask > 0
    assert np.array_equal(made[~hidden], before[~hidden]), (
        "pixels outside the mask are bitwise the input's"
    )
    assert not np.array_equal(made[hidden], before[hidden])
    assert (
        "JPEG also changes"
        in run(
            "create",
            "x",
            "--model",
            tiny,
            "--from",
            "s.png",
            "--mask",
            "m.png",
            "--output",
            "o.jpg",
        )[2]
    )
    near = run(
        "create",
        "x",
        "--model",
        tiny,
        "--from",
        "s.png",
        "--strength",
        0.1,
        "--seed",
        1,
        "--output",
        "n.png",
        "--json",
    )[1]
    assert len(json.loads(near)["settings"]["sigmas"]) == 5


def test_a_mask_on_a_picture_of_any_size_keeps_the_rest(run, tiny, tmp_path):
    before = np.random.default_rng(0).integers(0, 255, (13, 18, 3), dtype=np.uint8)
    hidden = np.zeros((13, 18), bool)
    hidden[9:, 14:] = True
    Image.fromarray(before).save("s.png")
    Image.fromarray(hidden.astype(np.uint8) * 255).save("m.png")
    assert (
        run(
            "create",
            "x",
            "--model",
            tiny,
            "--from",
            "s.png",
            "--mask",
            "m.png",
            "--seed",
            1,
            "--output",
            "o.png",
        )[0]
        == 0
    )
    made = pixels("o.png")
    assert np.array_equal(made[~hidden], before[~hidden].astype(int))
    assert not np.array_equal(made[hidden], before[hidden].astype(int))
    assert run("create", "--again", "o.png", "--output", "p.png")[0] == 0
    assert (tmp_path / "o.png").read_bytes() == (tmp_path / "p.png").read_bytes()


def test_inpainting_network(run, tmp_path):
    folder = make_tiny(tmp_path / "fill", in_channels=9)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "s.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "m.png")
    assert (
        run(
            "create",
            "x",
            "--model",
            folder,
            "--from",
            "s.png",
            "--mask",
            "m.png",
            "--output",
            "o.png",
        )[0]
        == 0
    )
    assert run("create", "x", "--model", folder, "--output", "p.png")[0] == 0


def test_long_prompt_says_what_was_cut(run, tiny):
    code, _, err = run("create", " ".join(["apple"] * 400), "--model", tiny, "--output", "a.png")
    assert code == 0
    assert "the end of the prompt was not seen by the model" in err
    err = run(
        "create",
        "apple",
        "--negative",
        " ".join(["pear"] * 400),
        "--model",
        tiny,
        "--output",
        "b.png",
    )[2]
    assert "the end of the negative prompt was not seen by the model" in err


WRONG = {
    "a rescale without guidance": (
        ["create", "x", "--model", "TINY", "--guidance-scale", "1", "--guidance-rescale", "0.7"],
        "--guidance-rescale has no effect without guidance",
    ),
    "three million pictures": (
        ["create", "x", "--seed", "1", "--count", "3000000"],
        "less than or equal to 100000",
    ),
    "no prompt": (("create",), "no prompt given"),
    "unknown sampler": (
        ("create", "x", "--model", "TINY", "--sampler", "eulr"),
        'did you mean "euler"',
    ),
    "unknown schedule": (
        ("create", "x", "--model", "TINY", "--schedule", "karas"),
        'did you mean "karras"',
    ),
    "unknown model": (("create", "x", "--model", "icns"), "unknown model"),
    "unknown style": (("create", "x", "--model", "TINY", "--style", "bauhaus"), "unknown style"),
    "no size": (("create", "x", "--size", "0"), "size 0x0: both sides must be at least 1 pixel"),
    "guided student": (
        ("create", "x", "--fast", "--guidance-scale", "3"),
        "--fast works without guidance",
    ),
    "odd size": (
        ("create", "x", "--model", "TINY", "--size", "17x16"),
        "multiples of 4 up to 4096; try 16x16",
    ),
    "size words": (("create", "x", "--model", "TINY", "--size", "big"), "WIDTHxHEIGHT"),
    "no steps": (("create", "x", "--model", "TINY", "--steps", "0"), "steps=0"),
    "negative seed": (("create", "x", "--model", "TINY", "--seed", "-1"), "seed=-1"),
    "not a model": (("create", "x", "--model", "EMPTY"), "no model_index.json"),
    "pickle": (("create", "x", "--model", "model.ckpt"), "is a pickle"),
    "mask alone": (("create", "x", "--model", "TINY", "--mask", "m.png"), "--mask needs --from"),
    "no source": (
        ("create", "x", "--model", "TINY", "--from", "none.png"),
        "none.png does not exist",
    ),
    "file for many": (
        ("create", "x", "y", "--model", "TINY", "--output", "a.png"),
        "several pictures",
    ),
    "unwritable": (("create", "x", "--model", "TINY", "--output", "/proc/x.png"), "/proc"),
    "no device": (("create", "x", "--model", "TINY", "--device", "tpu9"), "device"),
    "no matcher": (
        ("create", "x", "--model", "PLAIN", "--best-of", "4"),
        "no matcher to choose the best of 4 candidates",
    ),
    "foreign matcher": (
        ("create", "x", "--model", "FOREIGN", "--best-of", "2"),
        "takes texts of 48 values, but the model's text encoder gives 32",
    ),
    "strength without from": (("create", "x", "--strength", "0.5"), "--strength needs --from"),
    "beyond the largest seed": (
        (
            "create",
            "x",
            "--model",
            "TINY",
            "--seed",
            str(2**63 - 1),
            "--count",
            "2",
            "--output",
            "c",
        ),
        "largest seed",
    ),
    "no picture": (
        ("create", "x", "--count", "0", "--output", "x.png"),
        "count=0 is not supported",
    ),
    "too many": (
        ("create", "x", "--count", "3000000000", "--output", "x"),
        "count=3000000000 is not supported",
    ),
    "a suffix that is not written": (("create", "x", "--output", "x.gif"), "are written as"),
    "again without settings": (
        ("create", "--again", "plain.png"),
        "contains no settings of sfumato create",
    ),
    "eta where there is none": (
        ("create", "x", "--model", "TINY", "--eta", "0.5"),
        "--eta works only with the samplers",
    ),
    "negative without guidance": (
        ("create", "x", "--model", "TINY", "--negative", "y", "--guidance-scale", "1"),
        "needs guidance",
    ),
    "more channels": (
        ("create", "x", "--model", "PICTURES"),
        "has 8 input channels, which do not fit 4 latent channels with or without a mask",
    ),
    "no such groups": (
        ("create", "x", "--model", "GROUPS"),
        "no network can be built from this config",
    ),
    "damaged tags": (("inspect", "tags.tif"), "cannot be read as a picture"),
    "an open quote": (
        ("create", "--prompts", "open.csv"),
        "cannot be read as prompts: field larger",
    ),
    "prompts missing": (("create", "--prompts", "none.txt"), "cannot be read as prompts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(run, tiny, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "open.csv").write_text('prompt,id\n"a,1\n' + "b,2\n" * 40_000)
    shutil.copytree(tiny, tmp_path / "plain", ignore=shutil.ignore_patterns("matcher"))
    shutil.copytree(tiny, tmp_path / "foreign")
    save_network(
        Matcher(MatcherConfig(widths=(16,), blocks=(1,), text_width=48)),
        tmp_path / "foreign" / "matcher",
        torch.float32,
    )
    make_tiny(tmp_path / "pictures", in_channels=8)
    shutil.copytree(tiny, tmp_path / "groups")
    config = tmp_path / "groups" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"norm_num_groups": 7}))
    Image.new("L", (4, 4)).save(tmp_path / "tags.tif")
    damaged = bytearray((tmp_path / "tags.tif").read_bytes())
    damaged[damaged.index(b"\x06\x01\x03\x00") + 2] = 2  # the photometric interpretation as text
    (tmp_path / "tags.tif").write_bytes(damaged)
    before = sorted(tmp_path.rglob("*"))
    words, sentence = WRONG[case]
    places = {"TINY": tiny} | {
        name.upper(): tmp_path / name
        for name in ("empty", "plain", "foreign", "pictures", "groups")
    }
    words = [str(places.get(w, w)) for w in words]
    code, out, err = run(*words)
    assert code == 2, err
    assert sentence in err
    assert err.startswith("sfumato: ")
    assert err.count("\n") == 1, "one sentence"
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before, "nothing written"


def test_options_are_checked_where_they_are_made():
    with pytest.raises(OptionError, match="steps=0"):
        CreateOptions(steps=0)


def test_no_two_prompts_share_a_file(run, tiny, tmp_path):
    assert (
        run(
            "create",
            "a cat",
            "a cat",
            "a cat 2",
            "--model",
            tiny,
            "--steps",
            1,
            "--seed",
            1,
            "--output",
            "cats",
        )[0]
        == 0
    )
    assert len(list((tmp_path / "cats").glob("*.png"))) == 3
    (tmp_path / "p.json").write_text('["one", {"prompt": "two", "id": "second"}]')
    assert (
        run(
            "create",
            "--prompts",
            "p.json",
            "--model",
            tiny,
            "--steps",
            1,
            "--seed",
            1,
            "--output",
            "listed",
        )[0]
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "listed").iterdir()) == ["one-1.png", "second.png"]


def test_out_of_memory_is_one_sentence(run, tiny, monkeypatch):
    def greedy(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr("sfumato.tasks.create.prompts.stream_rows", greedy)
    code, _, err = run("create", "x", "--model", tiny, "--output", "a.png")
    assert (code, err.count("\n"), "not enough memory" in err) == (2, 1, True)


def test_half_a_surrogate_and_settings_that_do_not_fit(run, tiny):
    assert (
        run(
            "create",
            "a \ud83d b",
            "--negative",
            "\ud83d",
            "--model",
            tiny,
            "--seed",
            1,
            "--output",
            "a.png",
        )[0]
        == 0
    )
    settings = metadata.read("a.png")[0]
    assert (settings["prompt"], settings["negative_prompt"]) == ("a ? b", "?")
    code, _, err = run("create", "a " * 40_000, "--model", tiny, "--seed", 1, "--output", "a.jpg")
    assert (code, "do not fit into a JPEG" in err) == (2, True), err


def test_existing_output_stays_unless_told(run, tiny, tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    code, _, err = run("create", "x", "--model", tiny, "--seed", 1, "--output", "a.png")
    assert (code, "give --overwrite" in err) == (2, True)
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert (
        run("create", "x", "--model", tiny, "--seed", 1, "--output", "a.png", "--overwrite")[0] == 0
    )


def test_empty_prompt_where_one_is_needed(run, tmp_path):
    folder = make_tiny(tmp_path / "needs", Defaults(steps=2, needs_prompt=True))
    code, _, err = run("create", " ", "--model", folder, "--output", "a.png")
    assert (code, "the prompt is empty" in err) == (2, True)


def spoil(folder, how):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    config = folder / "unet" / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == "missing key":
        save_file({"conv_in.weight": torch.zeros(1)}, weights)
    elif how == "pickled":
        weights.rename(folder / "unet" / "diffusion_pytorch_model.bin")
    elif how == "config key":
        config.write_text(json.dumps({**json.loads(config.read_text()), "time_cond_proj_dim": 256}))
    elif how == "no json":
        config.write_text("{")
    return folder


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "the file may be truncated"),
        ("missing key", "lacks weight"),
        ("pickled", "is a pickle and is not read"),
        ("config key", "time_cond_proj_dim=256"),
        ("no json", "cannot be read as JSON"),
    ],
)
def test_broken_model(run, tiny, tmp_path, how, sentence):
    folder = spoil(shutil.copytree(tiny, tmp_path / "broken"), how)
    code, _, err = run("create", "x", "--model", folder, "--output", "a.png")
    assert (code, sentence in err, (tmp_path / "a.png").exists()) == (2, True, False), err


def test_models_and_inspect(run, tiny):
    assert "icons" in run("models")[1]
    code, out, _ = run("models", "--near", "serpent")
    assert code == 0 and len(out.splitlines()) == 6 and out.splitlines()[0].endswith("  snake")
    assert json.loads(run("models", "--near", "serpent", "--json")[1])[0]["name"] == "snake"
    code, _, err = run("models", "--near", " ")
    assert code == 2 and "--near is empty" in err
    code, _, err = run("models", "--near", "serpent", "--model", tiny)
    assert code == 2 and "has no names of training pictures" in err
    record = json.loads(run("inspect", tiny)[1])
    assert record["size"] == [16, 16]
    assert len(record["sha256"]) == 64


def test_what_a_mask_keeps_stays_transparent(run, tiny, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(values).save("clear.png")
    hidden = np.zeros((64, 64), np.uint8)
    hidden[8:24, 8:24] = 255
    Image.fromarray(hidden).save("mask.png")
    words = (
        "create",
        "x",
        "--model",
        tiny,
        "--steps",
        2,
        "--from",
        "clear.png",
        "--mask",
        "mask.png",
    )
    assert run(*words, "--output", "a.png")[0] == 0
    with Image.open("a.png") as picture:
        made = np.asarray(picture)
    assert made.shape == values.shape
    assert (made == values)[hidden == 0].all(), "colors and transparency, bit for bit"
    assert (made[hidden > 0][:, 3] == 255).all(), "what is made anew is opaque"
    assert run(*words, "--output", "b.jpg")[0] == 0
    with Image.open("b.jpg") as flat:
        assert flat.mode == "RGB"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: create("a", 7), "must be a CreateOptions"),
        (lambda: create([None]), "must be a string"),
        (lambda: create("a", None, "icons"), "sfumato.load"),
        (lambda: create([]), "prompt is empty"),
    ],
)
def test_wrong_types_are_told_in_python(call, said):
    with pytest.raises(OptionError, match=said):
        call()


def test_an_empty_path_is_not_the_current_folder(run, tiny):
    for words in (["restore", "", "--denoise"], ["index", ""], ["evaluate", "restore", ""]):
        code, _, err = run(*words, *(["--output", "o"] if words[0] != "evaluate" else []))
        assert code == 2 and "the path is empty" in err


def test_a_change_with_an_unknown_name_is_told(run, tiny):
    words = ("a", "--model", tiny, "--change", "guidance=1", "--output", "x.html")
    code, _, err = run("explain", *words)
    assert code == 2 and "guidance_scale" in err and "unknown option" in err


def test_help_is_wrapped_by_the_terminal_only(run):
    assert "\n" not in help_of(inspect_command)
