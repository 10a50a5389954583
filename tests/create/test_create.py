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
from safetensors.torch import save_file
from tests.conftest import make_tiny

from sfumato import image, metadata
from sfumato.cli.command import help_of
from sfumato.cli.create import inspect as inspect_command
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.errors import OptionError
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


def test_options_take_paths(tmp_path):
    assert CreateOptions(source=tmp_path / "a.png").source == str(tmp_path / "a.png")


def test_settings_name_the_model_that_was_used(tiny):
    model = load(str(tiny))
    assert create("x", CreateOptions(seed=1, steps=1), model)[0].settings["model"] == str(tiny)


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


def test_a_strength_needs_a_picture_in_python_too(tiny):
    with pytest.raises(OptionError, match="--strength needs --from"):
        create("a", CreateOptions(model=str(tiny), strength=0.2))


def test_a_file_that_is_there_is_refused_before_any_work(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"precious")
    for output, item in ((tmp_path / "cat.png", Prompt("x")), (tmp_path, Prompt("x", "cat"))):
        with pytest.raises(OptionError, match="exists already"):
            Saver(output, overwrite=False, single=True).check([item], {"count": 1})  # no seed
    with pytest.raises(OptionError, match="two pictures"):
        Saver(tmp_path / "sheet.png", overwrite=True, single=True).check(
            [Prompt("x")], {"count": 1}, grid=True
        )


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
    then = ["--then-step", "1", "--then", " ".join(["pear"] * 400), "--output", "c.png"]
    err = run("create", "apple", "--model", tiny, "--steps", "2", *then)[2]
    assert "the end of the text of --then was not seen by the model" in err


WRONG = {
    "a rescale without guidance": (
        ["create", "x", "--model", "TINY", "--guidance-scale", "1", "--guidance-rescale", "0.7"],
        "--guidance-rescale has no effect without guidance",
    ),
    "three million pictures": (
        ["create", "x", "--seed", "1", "--count", "3000000"],
        "at most 100,000",
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
        "has 8 input channels; only 4 (the latents) or 9 (latents, a mask",
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
    assert "close in meaning" in run("models", "--near", "blorptang")[2]
    assert "close in meaning" not in run("models", "--near", "serpent")[2]
    code, _, err = run("models", "--near", " ")
    assert code == 2 and "--near is empty" in err
    code, _, err = run("models", "--near", "serpent", "--model", tiny)
    assert code == 2 and "has no names of training pictures" in err
    record = json.loads(run("inspect", tiny)[1])
    assert record["size"] == [16, 16]
    assert len(record["sha256"]) == 64


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
