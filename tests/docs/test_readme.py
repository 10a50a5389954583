"""What README shows works: its Python runs, and its commands have these names and options."""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image

from sfumato.cli import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
DOCS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
FENCED = re.findall(r"```([^\n`]*)\n(.*?)```", TEXT + DOCS, re.S)
SHOWN = [block for kind, block in FENCED if not kind]
LINES = {line.removeprefix("$ ") for block in SHOWN for line in block.splitlines()}
# but for lines with placeholders
COMMANDS = sorted(
    line for line in LINES if line.startswith("sfumato ") and not re.search(r"[\[|]|\.\.\.", line)
)
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


def parse(line):
    """Let the program read a command line, without running it."""
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    context = click.Context(command, info_name="sfumato")
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("sfumato", words, parent=context)


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line):
    parse(line)


def test_a_wrong_command_would_be_found():
    assert len(COMMANDS) > 8
    with pytest.raises(Exception, match="(?i)no such option"):
        parse("sfumato create x --sed 3")
    with pytest.raises(KeyError):
        parse("sfumato creat x")


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("apple.png")
    exec(block, {"rows": np.random.default_rng(0).random((40, 64), np.float32)})
