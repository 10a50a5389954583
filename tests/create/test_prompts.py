"""Files of prompts, whose rows may have options of their own."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato import metadata


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


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


def test_what_a_row_cannot_have_is_said_before_any_work(run, tiny, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "one", "id": "one"}\n{"prompt": "two", "style": "bauhaus"}\n'
    )
    code, _, err = run("create", "--prompts", "p.jsonl", "--model", tiny, "--output", "c")
    assert code == 2
    assert "unknown style" in err
    assert not (tmp_path / "c").exists()


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
