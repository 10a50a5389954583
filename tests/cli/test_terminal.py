"""What the command line prints, and where it refuses to write."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from sfumato.cli import bar as bars
from sfumato.cli.say import LONGEST, escaped
from sfumato.runtime import atomic
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create

EVIL = "x\x1b]0;title\x07\x9b31m\u202egnp"


def test_nothing_from_a_file_moves_the_terminal(run, tiny, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{EVIL}\nSteps: 20")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    _, out, _ = run("inspect", "a.png")
    assert "\\x1b]0;title\\x07" in out
    assert out.splitlines()[1] == "Steps: 20", "the ends of its lines are meant"
    name = f"{EVIL}\n.png"
    (tmp_path / name).write_bytes(b"no picture")
    for words in (
        ("restore", name, "--denoise=5", "--output", "o.png"),
        ("create", EVIL, "--model", EVIL),
        ("inspect", name),
    ):
        code, out, err = run(*words)
        assert code == 2
        assert err.count("\n") == 1
        assert not set(out + err) & set("\x1b\x07\x9b\u202e")
    assert (
        run("create", "x", "--model", tiny, "--steps", 1, "--output", f"{EVIL}\n2.png")[1].count(
            "\n"
        )
        == 1
    )
    assert escaped("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_the_shell_completes_flags():
    program = "import sys; sys.argv = ['sfumato']; from sfumato.cli import main; main()"
    asked = {
        "_SFUMATO_COMPLETE": "complete_bash",
        "COMP_WORDS": "sfumato restore --de",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["--denoise", "--dejpeg", "--device"]


def test_a_long_prompt_is_not_echoed_whole(run, tiny):
    code, _, err = run(
        "create", "red apple " * 1000, "--model", tiny, "--steps", 1, "--output", "a.png"
    )
    assert code == 0
    assert "not seen by the model" in err
    assert len(err) < LONGEST + 100


@pytest.mark.parametrize("prompt", ["红苹果", "xyzzyq"])
def test_a_prompt_without_a_known_word_is_told_so(run, prompt):
    words = ("--steps", 1, "--seed", 1)
    assert (
        f'the model seems to know no word of "{prompt}"'
        in run("create", prompt, *words, "--output", "a.png")[2]
    )
    assert run("create", "a kitten", *words, "--output", "b.png")[2] == ""
    assert create(prompt, CreateOptions(steps=1))[0].unknown


def test_places_that_are_no_files(run, tiny, tmp_path):
    (tmp_path / "dir.png").mkdir()
    Image.new("RGB", (40, 40)).save("p.png")
    made = ("create", "x", "--model", tiny, "--steps", 1)
    for words in (
        (*made, "--output", "dir.png"),
        ("restore", "p.png", "--denoise=5", "--output", "dir.png"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert "is a folder" in err
    for words in ((*made, "--output", "-"), ("restore", "p.png", "--denoise=5", "--output", "-")):
        code, _, err = run(*words)
        assert code == 2
        assert "standard output" in err
    assert not (tmp_path / "-").exists()


def test_a_place_that_may_not_be_written_to_is_told_by_its_own_name(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "scratch")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError, match=r"a\.json") as caught, atomic(tmp_path / "a.json"):
        pass
    assert "sfumato-" not in str(caught.value)


def test_a_network_that_is_damaged_makes_no_picture(run, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    path = tmp_path / "m/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(k for k in weights if k.startswith("mid_block") and k.endswith("weight"))
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, path)
    for words in (("create", "x", "--output", "a.png"), ("explain", "x", "--output", "a.html")):
        code, out, err = run(*words, "--model", "m", "--steps", 1)
        assert (code, out) == (2, "")
        assert "not finite" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "a.png").exists() and not (tmp_path / "a.html").exists()


def test_pictures_are_saved_by_a_name(tmp_path, tiny):
    made = create("x", CreateOptions(model=str(tiny), seed=1, steps=1))[0]
    made.save(str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as picture:
        assert "sfumato" in picture.text


def test_long_work_prints_a_line_now_and_then(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock[0])
    with bars.bar() as progress:
        for done in range(1, 101):
            clock[0] += 3.0
            progress.update("training", done, 100, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert 8 <= len(lines) <= 12, "every tenth, if it takes longer than ten seconds"
    assert lines[0] == "training: 10%, about 270 s left; loss 0.5"
    clock[0] = 0.0
    with bars.bar() as progress:
        for done in range(100):
            clock[0] += 0.05
            progress.update("training", done, 100)
    assert capsys.readouterr().err == "", "quick work prints nothing"
    with bars.bar() as progress:
        for _ in range(5):
            clock[0] += 50
            progress.update("slow", 1, 1000)
    assert len(capsys.readouterr().err.splitlines()) == 2, "at least every minute or two"
    with bars.bar() as progress:
        clock[0] += 300
        progress.update("steps", 100, 100)
        progress.update("enlarging", 0, 8)
        clock[0] += 10
        progress.update("enlarging", 1, 8)
    assert capsys.readouterr().err.splitlines()[-1] == "enlarging: 12%, about 70 s left"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(bars.bar(), bars._Shown)
    with bars.bar() as progress:
        progress.update("[red]x\x1b", 1, 2, "n")
        assert progress.progress.tasks[0].description == "[red]x\\x1b"
    assert np.isfinite(progress.progress.tasks[0].completed)
