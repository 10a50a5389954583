"""Promises about the code itself: who may import whom, what --help costs, what is documented, and
how large things are.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import sfumato
from sfumato.cli import app
from sfumato.cli.command import flags
from sfumato.cli.create import create
from sfumato.cli.restore import restore
from sfumato.denoiser.restorer import Restorer
from sfumato.denoiser.unet import UNet
from sfumato.hub.config import Defaults
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.evaluate.options import EvaluateOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import IndexOptions, SearchOptions

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "sfumato"
FILES = sorted(SOURCE.rglob("*.py"))
AXES = ("corruption", "space", "denoiser", "condition", "sampler")
GROUND = ("config", "types", "errors", "progress", "runtime")


def layer(name):
    """0 ground, 1 layers and pictures, 2 axes, 3 what uses several axes, 4 edges."""
    if name in GROUND:
        return 0
    if name in ("layers", "image", "metadata", "metrics"):
        return 1
    if name in AXES:
        return 2
    return 4 if name in ("cli", "__main__", "web") else 3


def imports(path):
    """Names under sfumato that a file imports at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sfumato"):
            rest = node.module.split(".")[1:]
            yield from (
                [rest[0]] if rest else [a.name for a in node.names if a.name != "__version__"]
            )


def breaches(path, found):
    mine = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if mine == "__init__":
        return []
    return [
        f"{mine} imports {other}"
        for other in found
        if layer(other) > layer(mine) or (mine != other and mine in AXES and other in AXES)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_import_rule(path):
    assert not breaches(path, list(imports(path)))


def test_import_rule_can_fail():
    assert breaches(SOURCE / "sampler" / "ode.py", ["denoiser"])
    assert breaches(SOURCE / "layers.py", ["space"])
    assert not breaches(SOURCE / "cli" / "create.py", ["tasks"])


def imported_files(path):
    """The files of the package that one imports at its top, for types alone, too."""
    tree = ast.parse(path.read_text())
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    for node in (
        node
        for block in blocks
        for node in block
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sfumato")
    ):
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            yield from (p for p in [SOURCE.parent / f"{name.replace('.', '/')}.py"] if p.exists())


def circles(edges):
    """Names that reach themselves."""

    def reached(start):
        seen, todo = set(), list(edges[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += edges.get(name, ())
        return seen

    return sorted(name for name in edges if name in reached(name))


def test_no_file_imports_itself_by_others():
    edges = {path: set(imported_files(path)) for path in FILES if path.name != "__init__.py"}
    assert sum(map(len, edges.values())) > 300
    assert circles(edges) == []
    assert circles({1: [2], 2: [3], 3: [1], 4: [1]}) == [1, 2, 3], "the negative control"


def loaded_after(code):
    script = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_help_imports_neither_torch_nor_numpy():
    code = (
        "from typer.testing import CliRunner\nfrom sfumato.cli import app\nassert "
        "CliRunner().invoke(app, ['create', '--help']).exit_code == 0"
    )
    modules = loaded_after(code)
    assert not modules & {"torch", "numpy", "PIL", "diffusers", "fastapi"}
    assert "torch" in loaded_after("import sfumato; sfumato.load")


@pytest.mark.parametrize(
    "words",
    [
        "create x --steps 0",
        "create",
        "explain x --steps 0",
        "reduce x --limit 0",
        "search x y -k 0",
    ],
)
def test_wrong_options_are_told_without_torch(words):
    """Its import takes seconds."""
    code = (
        "from typer.testing import CliRunner\nfrom sfumato.cli import app\nfrom sfumato.errors "
        "import OptionError\nassert isinstance("
        f"CliRunner().invoke(app, {words.split()}).exception, OptionError)"
    )
    assert not loaded_after(code) & {"torch", "sklearn"}


def test_making_pictures_imports_no_sklearn():
    assert "sklearn" not in loaded_after("import sfumato.tasks.create.run")


def test_loading_a_model_does_not_import_torchs_compiler():
    assert "torch._dynamo" not in loaded_after(
        "import sfumato; sfumato.create('a', sfumato.CreateOptions(seed=1, steps=1))"
    )


def test_old_names_warn():
    with pytest.warns(DeprecationWarning, match="sfumato.walk is now sfumato.stream"):
        assert sfumato.walk is sfumato.stream
    assert Defaults.read({"licence": "MIT"}, "sfumato.json").license == "MIT"


@pytest.mark.parametrize("name", [n for n in sfumato.__all__ if n != "__version__"])
def test_public_names_are_there_and_documented(name):
    thing = getattr(sfumato, name)
    written = inspect.cleandoc(thing.__doc__ or "")
    assert len(written.splitlines()[0]) > 10, f"sfumato.{name} has no docstring"
    assert not written.startswith(f"{name}("), (
        f"sfumato.{name} has the signature alone, as a dataclass without a docstring"
    )


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sfumato.nothing


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_size(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = node.body[0] if ast.get_docstring(node) else None
            length = (
                node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
            )
            assert length <= 45, f"{node.name} has {length} lines"


def test_no_pickle():
    for path in FILES:
        text = path.read_text()
        assert "import pickle" not in text
        assert "torch.load" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_says_what_it_is(path):
    if path.name != "__init__.py":
        name = ".".join(("sfumato", *path.relative_to(SOURCE).with_suffix("").parts))
        if name != "sfumato.__main__":
            assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(path, tmp_path):
    out = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout


def test_training_keys_and_corruptions_are_told():
    from sfumato.corruption.base import CORRUPTIONS, parse
    from sfumato.hub.config import Defaults
    from sfumato.train.plan import Plan
    from sfumato.train.settings import TrainSettings

    text = (ROOT / "docs" / "train.md").read_text("utf-8")
    keys = [*Plan.model_fields, *TrainSettings.model_fields, *Defaults.model_fields]
    assert not [k for k in keys if f"`{k}`" not in text]
    shown = [
        w
        for w in re.findall(r"`([a-z]+(?::[^`]*)?)`", text.split("## Corruptions")[1])
        if w.split(":")[0] in CORRUPTIONS
    ]
    assert {w.split(":")[0] for w in shown} == set(CORRUPTIONS)
    for word in (part for alternatives in shown for part in alternatives.split("|")):
        assert "PICTURE" in word or parse(word)


COMMANDS = {
    ("create",): (CreateOptions, {"candidate"}),
    ("explain",): (CreateOptions, {"count", "candidate", "batch"}),
    ("restore",): (RestoreOptions, set()),
    ("reduce",): (ReduceOptions, set()),
    ("index",): (IndexOptions, set()),
    ("search",): (SearchOptions, set()),
    ("evaluate", "restore"): (EvaluateOptions, set()),
}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_the_options_of_its_record(words):
    """Every field has a description, and is a parameter of the command of the same name, with its
    help and its flags.
    """
    record, left_out = COMMANDS[words]
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    parameters = {p.name: p for p in command.params}
    for name, field in record.model_fields.items():
        assert field.description, name
        if name in left_out:
            assert name not in parameters
            continue
        assert field.description in parameters[name].help
        wanted = set("/".join(flags(name, field)).split("/"))
        assert wanted == {*parameters[name].opts, *parameters[name].secondary_opts}
        assert f"    {name} : " in record.__doc__, "help(record) names it"


def test_options_are_read_without_torch():
    """Help and errors of the command line come quickly."""
    code = "import sys, sfumato.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_of_options_is_that_of_the_records():
    spec = importlib.util.spec_from_file_location("options_page", ROOT / "docs" / "options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert module.page() == written, "python docs/options.py writes it"


def frames(monkeypatch, network, run):
    """Our own frames from the command to a network's first call."""
    seen, forward = [], network.forward

    def watched(self, *args, **values):
        if not seen:
            frame = sys._getframe(1)
            seen.append([f"{network.__name__}.forward"])
            while frame:
                if Path(frame.f_code.co_filename).is_relative_to(SOURCE):
                    seen[0].insert(0, frame.f_code.co_name)
                frame = frame.f_back
        return forward(self, *args, **values)

    monkeypatch.setattr(network, "forward", watched)
    run()
    return seen[0]


def test_the_way_of_a_prompt_is_short(monkeypatch, tmp_path):
    way = frames(
        monkeypatch, UNet, lambda: create(prompt=["apple"], output=tmp_path / "a.png", steps=2)
    )
    assert way[0] == "create"
    assert len(way) <= 8, " -> ".join(way)


@pytest.mark.parametrize("asked", [{"denoise": "25"}, {"enlarge": 2.0}, {"fill_color": "#ff0000"}])
def test_the_way_of_a_photo_is_short(asked, monkeypatch, tmp_path):
    values = np.full((24, 32, 3), 90, np.uint8)
    values[4:8, 4:8] = 255, 0, 0
    Image.fromarray(values).save(tmp_path / "photo.png")
    way = frames(
        monkeypatch,
        Restorer,
        lambda: restore(pictures=[tmp_path / "photo.png"], output=tmp_path / "out.png", **asked),
    )
    assert way[0] == "restore"
    assert len(way) <= 9, " -> ".join(way)
