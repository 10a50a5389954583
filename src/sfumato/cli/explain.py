"""``explain``: a page that shows how a picture is generated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import given, takes
from sfumato.cli.create import tell_of_prompt
from sfumato.cli.say import say
from sfumato.tasks.create.options import CreateOptions

if TYPE_CHECKING:
    from sfumato.hub.load import Model
    from sfumato.tasks.explain.experiments import Explained

Argument, Option = typer.Argument, typer.Option


Prompts = Annotated[
    list[str] | None,
    Argument(
        help="What the picture shows; several prompts start from the same noise and are compared."
    ),
]
Page = Annotated[Path, Option(help="FILE.html of the page, which opens offline.")]
Again = Annotated[
    Path | None,
    Option(
        help="A picture from sfumato create to explain; further prompts are run with its settings."
    ),
]
Light = Annotated[
    bool,
    Option(
        "--light", help="Record the sampler's steps only: decode no estimates, run no experiments."
    ),
]
Changes = Annotated[
    list[str] | None,
    Option(
        "--change",
        help="Add a run of the first prompt with some options changed: 'guidance_scale=1', "
        "'then_step=4, then=a cat'. May be repeated.",
    ),
]
Numbers = Annotated[
    Path | None, Option(help="Also write all numbers to FOLDER/: trace.json and trace.safetensors.")
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an existing page.")]
AsJson = Annotated[
    bool,
    Option("--json", help="Print the recorded values as JSON on stdout, without the large arrays."),
]


@takes(CreateOptions, without={"count", "candidate", "batch"})
def explain(
    prompt: Prompts = None,
    output: Page = Path("explained.html"),
    again: Again = None,
    change: Changes = None,
    light: Light = False,
    trace: Numbers = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **values: Any,
) -> None:
    """Generate pictures, and write a page that shows every step of their generation."""
    values = given(values)
    if again is None:  # wrong options are told before slow imports
        CreateOptions.build(values)

    from sfumato.errors import OptionError
    from sfumato.tasks.create.again import settings_of

    opened, wanted = None, list(prompt or [])
    if again is not None:
        first, values, opened = settings_of(again, values)
        wanted = [first[0].text, *wanted]
    elif not wanted:
        raise OptionError("no prompt given; say what the picture shows, or give --again PICTURE")
    elif files := [text for text in wanted if _is_picture(text)]:
        raise OptionError(f"{files[0]} is a picture; to explain it, give --again {files[0]}")
    _check_places(output, trace, overwrite=overwrite)
    changes = [_change(text) for text in change or ()]
    found = _with_progress(wanted, CreateOptions.build(values), opened, changes, light=light)
    found.write(output)
    if trace is not None:
        _save_traces(found, trace)
    for run in found.runs:
        tell_of_prompt(run.trace.made)
    record = {"path": str(output), "runs": [run.trace.record() for run in found.runs]}
    say(json.dumps(record) if as_json else str(output))


def _is_picture(text: str) -> bool:
    """Whether a prompt is the name of a picture file."""
    from sfumato.image import SUFFIXES

    path = Path(text)
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _change(text: str) -> dict[str, str]:
    """Parse the value of --change into options and their values."""
    from sfumato.errors import OptionError

    # a comma ends a value only before the next name, since a text may have commas
    parts = [part.partition("=") for part in re.split(r",(?=\s*[\w-]+\s*=)", text)]
    if any(not sign or not name.strip() for name, sign, _ in parts):
        raise OptionError(
            f'--change "{text}" cannot be read; write NAME=VALUE, such as guidance_scale=1'
        )
    names = [name.strip().replace("-", "_") for name, _, _ in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(
            f'--change "{text}" gives {twice[0]} twice; for two runs, give two --change'
        )
    return {name: value.strip() for name, (_, _, value) in zip(names, parts, strict=True)}


def _save_traces(found: Explained, folder: Path) -> None:
    """Write all numbers of a run to a folder; several runs get a numbered subfolder each."""
    for k, run in enumerate(found.runs, 1):
        run.trace.save(folder if len(found.runs) == 1 else folder / str(k))


def _check_places(output: Path, trace: Path | None, *, overwrite: bool) -> None:
    """Check before the run that the page and the folders can be written."""
    from sfumato.errors import OptionError
    from sfumato.runtime import check_file, check_folder

    if output.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{output}: the page is an HTML file; give a name that ends in .html")
    check_file(output, overwrite=overwrite)
    if trace is not None and trace.is_dir() and any(trace.iterdir()) and not overwrite:
        raise OptionError(f"{trace} is not empty; give another folder, or --overwrite")
    for folder in (output.parent, trace):
        if folder is not None:
            check_folder(folder)


def _with_progress(
    wanted: list[str],
    options: CreateOptions,
    model: Model | None,
    changes: list[dict[str, str]],
    *,
    light: bool,
) -> Explained:
    from sfumato.tasks.explain.experiments import Explained, steps
    from sfumato.types import Progress

    with bar() as progress:
        progress.update("loading the model", 0, None)
        for event in steps(wanted, options, model, light=light, changes=changes):
            if isinstance(event, Explained):
                return event
            now = event if isinstance(event, Progress) else event.progress
            progress.update(now.what, now.done, now.total)
    raise AssertionError("an explanation ends with its result")
