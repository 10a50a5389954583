"""``explain``: how a picture comes about, as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.bar import bar
from sfumato.cli.say import note, say

if TYPE_CHECKING:
    from sfumato.hub.load import Model
    from sfumato.tasks.create.options import CreateOptions
    from sfumato.tasks.explain.experiments import Explained

Option = typer.Option


def explain(
    prompt: Annotated[list[str] | None, typer.Argument(help="What the picture shows; several are set side by side, from the same noise.")] = None,
    output: Annotated[Path, Option(help="FILE.html: the page, which needs no network.")] = Path("explained.html"),
    again: Annotated[Path | None, Option(help="A picture of sfumato create, to be explained; prompts are set beside it, from its settings.")] = None,
    light: Annotated[bool, Option(help="Record the walk alone: no estimate is decoded, no experiment is made.")] = False,
    trace: Annotated[Path | None, Option(help="FOLDER/ for all numbers, too: trace.json and trace.safetensors.")] = None,
    seed: Annotated[int | None, Option(help="Same seed, same picture. Random if absent.")] = None,
    best_of: Annotated[int | None, Option(help="Tries, of which the best match is explained; the model's own number by default.")] = None,
    steps: Annotated[int | None, Option(help="Sampler steps; the model's own number by default.")] = None,
    guidance_scale: Annotated[float | None, Option(help="How closely to follow the text; 1 is off.")] = None,
    negative: Annotated[str | None, Option(help="What the picture should not show.")] = None,
    sampler: Annotated[str | None, Option(help="As for create.")] = None,
    schedule: Annotated[str | None, Option(help="As for create.")] = None,
    style: Annotated[str | None, Option(help="A style of the model; see sfumato models.")] = None,
    size: Annotated[str | None, Option(help="WxH in pixels.")] = None,
    model: Annotated[str | None, Option(help="A bundled name, a folder in diffusers' layout, or a .safetensors.")] = None,
    source: Annotated[str | None, Option("--from", help="A picture to start from.")] = None,
    strength: Annotated[float | None, Option(help="How much of --from is made anew, 0 to 1.")] = None,
    mask: Annotated[str | None, Option(help="White = make anew; the rest of --from is held to at every step.")] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, Option(help="auto, float32, bfloat16 or float16.")] = None,
    overwrite: Annotated[bool, Option(help="Replace a page that is there.")] = False,
    as_json: Annotated[bool, Option("--json", help="What was seen, but for the large arrays, as JSON on stdout.")] = False,
) -> None:
    """Make pictures, and a page that shows every step of how they came about."""
    from sfumato.errors import OptionError
    from sfumato.runtime import check_file, check_folder
    from sfumato.tasks.create import prompts as texts
    from sfumato.tasks.create.options import CreateOptions

    values = {
        "seed": seed, "best_of": best_of, "steps": steps, "guidance_scale": guidance_scale, "negative_prompt": negative, "sampler": sampler,
        "schedule": schedule, "style": style, "size": size, "model": model, "source": source, "strength": strength,
        "mask": mask, "device": device, "dtype": dtype,
    }  # fmt: skip
    opened, wanted = None, list(prompt or [])
    if again is not None:
        first, values, opened = texts.again(again, values)
        wanted = [first[0].text, *wanted]
    elif not wanted:
        raise OptionError("no prompt given; say what the picture shows, or give --again PICTURE")
    if strength is not None and not values["source"]:
        raise OptionError(texts.NO_SOURCE)
    if output.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{output}: the page is an HTML file; give a name that ends in .html")
    check_file(output, overwrite=overwrite)
    for folder in (output.parent, trace):
        if folder is not None:
            check_folder(folder)
    found = _with_progress(wanted, CreateOptions.build(values), opened, light=light)
    found.write(output)
    for k, run in enumerate(found.runs):
        if trace is not None:
            run.trace.save(trace if len(found.runs) == 1 else trace / str(k + 1))
        if run.trace.made.cut:
            note(f'the end of the prompt was not seen by the model: "{run.trace.made.cut}"')
    say(json.dumps({"path": str(output), "runs": [run.trace.record() for run in found.runs]}) if as_json else str(output))


def _with_progress(wanted: list[str], options: CreateOptions, model: Model | None, *, light: bool) -> Explained:
    from sfumato.tasks.explain import experiments as work

    with bar() as progress:
        for event in work.steps(wanted, options, model, light=light):
            if isinstance(event, work.Explained):
                return event
            if isinstance(event, work.Decoded):
                progress.update("decoding", event.done, event.total)
            else:
                progress.update("steps", event.done * event.steps + event.step.index + 1, event.total * event.steps)
    raise AssertionError("an explanation ends with its result")
