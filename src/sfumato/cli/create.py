"""``create``, ``models`` and ``inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import given, takes
from sfumato.cli.say import note, say, shortened
from sfumato.errors import OptionError
from sfumato.tasks.create.options import NO_PROMPT, CreateOptions

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.tasks.create.prompts import Prompt
    from sfumato.tasks.create.run import Made

Argument, Option = typer.Argument, typer.Option


Prompts = Annotated[
    list[str] | None,
    Argument(help="What the picture shows; several prompts give several pictures."),
]
PromptFile = Annotated[
    Path | None,
    Option(
        help="File of prompts: .txt with one prompt per line; or .jsonl or .csv whose rows have a "
        "prompt and, if needed, an id and options such as seed."
    ),
]
Output = Annotated[Path, Option(help="FILE.png (.jpg, .webp) or FOLDER/.")]
Grid = Annotated[bool, Option("--grid", help="Also write all pictures on one sheet.")]
Again = Annotated[
    Path | None,
    Option(help="Generate the picture in this file again, from the settings in the file."),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace existing pictures.")]
AsJson = Annotated[bool, Option("--json", help="One JSON line per picture on stdout.")]


@takes(CreateOptions, without={"candidate"})
def create(
    prompt: Prompts = None,
    prompts: PromptFile = None,
    output: Output = Path("pictures"),
    grid: Grid = False,
    again: Again = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **values: Any,
) -> None:
    """Generate pictures from texts."""
    values = given(values)
    if again is None:  # wrong options are told before torch is imported, which takes seconds
        CreateOptions.build(values)
        if not (prompt or prompts):
            raise OptionError(NO_PROMPT)

    from sfumato.tasks.create.again import settings_of
    from sfumato.tasks.create.output import Saver
    from sfumato.tasks.create.prompts import gather, run
    from sfumato.tasks.create.run import Made, SamplerProgress

    opened = None
    if again is not None:
        also = gather(prompt or [], prompts) if prompt or prompts else ()
        wanted, values, opened = settings_of(again, values, also)
    else:
        wanted = gather(prompt or [], prompts)
    options = CreateOptions.build(values)  # checks `count` before its use below
    saver = Saver(output, overwrite=overwrite, single=len(wanted) * options.count <= 1)
    saver.check(wanted, values, grid=grid)
    pictures: dict[Prompt, list[Image.Image]] = {item: [] for item in wanted}
    with bar() as progress:
        progress.update("loading the model", 0, None)
        for item, event in run(wanted, values, opened):
            if item is not None and isinstance(event, Made):
                _tell(event, saver.save(item, event), as_json=as_json)
                pictures[item] += [event.picture] if grid else []
            elif not isinstance(event, Made):
                now = event.progress if isinstance(event, SamplerProgress) else event
                progress.update(now.what, now.done, now.total)
    if grid:
        in_order = [picture for item in wanted for picture in pictures[item]]
        say(str(saver.sheet(in_order)), err=as_json)


def _tell(made: Made, path: Path, *, as_json: bool) -> None:
    """Print a line about a written picture to stdout, and notes (such as a cut prompt) to
    stderr.
    """
    from sfumato.image import JPEG_TOUCHES
    from sfumato.metadata import FORMATS

    line = {
        "path": str(path),
        "seed": made.seed,
        "seconds": round(made.seconds, 3),
        "settings": made.settings,
    }
    say(json.dumps(line) if as_json else str(path))
    tell_of_prompt(made)
    if made.settings.get("transparent") and made.picture.getchannel("A").getextrema()[0] == 255:
        note(f"{path}: no white background was found, so no part of the picture is transparent")
    if made.settings.get("mask") and FORMATS[path.suffix.lower()] == "JPEG":
        note(f"{path}: {JPEG_TOUCHES}")


def tell_of_prompt(made: Made) -> None:
    """Print notes to stderr if the model knows no word of the prompt, or not all of it was used.

    A note is also printed if no training picture has a name with a word of the prompt. The end of a
    prompt or negative prompt that is too long is cut off.
    """
    if made.unknown:
        note(f'the model seems to know no word of "{shortened(made.prompt)}"')
    if made.near is not None:
        found = (
            f"similar names are {', '.join(made.near)}" if made.near else "none has a similar name"
        )
        note(f'no training picture is named "{shortened(made.prompt)}"; {found}')
    if made.then_unknown:
        note(f'the model seems to know no word of --then "{shortened(made.settings["then"])}"')
    texts = (
        ("prompt", made.cut),
        ("negative prompt", made.negative_cut),
        ("text of --then", made.then_cut),
    )
    for what, cut in texts:
        if cut:
            note(f'the end of the {what} was not seen by the model: "{cut}"')


def models(
    near: Annotated[
        str | None,
        Option(
            help="List names of training pictures of --model that are close in meaning to this "
            "text."
        ),
    ] = None,
    model: Annotated[str, Option(help="Model for --near: a bundled name or a folder.")] = "icons",
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the bundled models, their sizes and styles.

    With --near, list names of training pictures that are close in meaning to a text.
    """
    if near is not None:
        _tell_near(near, model, as_json=as_json)
        return
    from sfumato.hub.catalog import bundled, restorers
    from sfumato.hub.describe import describe

    found = [describe(name) for name in (*bundled(), *restorers())]
    if as_json:
        say(json.dumps(found, indent=2), keep="\n")
        return
    for record in found:
        say(f"{record['name']}: {record['description']}")
        size = f"{record['size'][0]}x{record['size'][1]} pixels" if "size" in record else "any size"
        say(f"  {size}, {record['megabytes']} MB, license {record['license']}")
        if "styles" in record:
            say(f"  styles: {', '.join(record['styles']) or 'none'}")


def inspect(
    path: Annotated[
        str, typer.Argument(help="A picture, a model's name or folder, a LoRA, or an index.")
    ],
    nearest: Annotated[
        bool,
        Option("--nearest", help="Name the training pictures that are closest to the picture."),
    ] = False,
    model: Annotated[
        str,
        Option(
            help="Model for --nearest; by default, the model that generated the picture, or icons."
        ),
    ] = "",
) -> None:
    """Print a picture's settings, the contents of a model, LoRA or index, or the training pictures
    closest to a picture.
    """
    from sfumato import metadata
    from sfumato.data.foreign import read_options
    from sfumato.errors import OptionError
    from sfumato.hub.catalog import bundled, restorers
    from sfumato.hub.describe import describe

    if (
        path in (*bundled(), *restorers())
        or Path(path).is_dir()
        or Path(path).suffix == ".safetensors"
    ):
        if nearest or model:
            raise OptionError(f"{path} is no picture: leave out --nearest and --model")
        say(json.dumps(describe(path), indent=2), keep="\n")
        return
    if model and not nearest:
        raise OptionError("--model is for --nearest")
    settings, text = metadata.read(Path(path))
    if nearest:
        _tell_nearest(Path(path), model or str((settings or {}).get("model") or "icons"))
        return
    settings = settings or read_options(Path(path))  # written by another program
    if text or not settings:
        say(text or "the picture contains no generation parameters", keep="\n")
    if settings:
        say(json.dumps(settings, indent=2, ensure_ascii=False), keep="\n")


def _tell_near(text: str, model: str, *, as_json: bool) -> None:
    """Print the names of training pictures that are close in meaning to a text, one per line."""
    from sfumato.errors import OptionError
    from sfumato.hub.catalog import model_path
    from sfumato.tasks.names import NEAR, Names

    if not text.strip():
        raise OptionError("--near is empty; give a text")
    found = Names.load(model_path(model)).near(text)
    if not found or found[0][1] < NEAR:
        note(f'no training picture has a name that is close in meaning to "{shortened(text)}"')
    if as_json:
        say(json.dumps([{"name": name, "similarity": similarity} for name, similarity in found]))
        return
    for name, similarity in found:
        say(f"{similarity:.3f}  {name}")


def _tell_nearest(path: Path, model: str) -> None:
    """Print the training pictures closest to a picture, one per line."""
    from sfumato import image
    from sfumato.hub.catalog import model_path
    from sfumato.tasks.nearest import TrainingPictures

    for found in TrainingPictures.load(model_path(model)).nearest(image.read(path)):
        mirrored = ", mirrored" if found.mirrored else ""
        source = f"{found.set}; {found.author}, {found.license}"
        say(f"{found.distance:5.1f}  {found.name}{mirrored} ({source})")
