"""``create``, and ``models`` and ``inspect``, which say what there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.say import note, say, shortened

if TYPE_CHECKING:
    from sfumato.hub.load import Model
    from sfumato.tasks.create.prompts import Prompt
    from sfumato.tasks.create.run import Made

Option = typer.Option


def create(  # a command's signature is its help page: it is as long as its options
    prompt: Annotated[list[str] | None, typer.Argument(help="What the picture shows; several make several pictures.")] = None,
    prompts: Annotated[Path | None, Option(help="File: .txt (a prompt a line), .jsonl or .csv (prompt, id, and any option of a picture).")] = None,
    output: Annotated[Path | None, Option(help="FILE.png (.jpg, .webp) or FOLDER/; pictures/ by default.")] = None,
    count: Annotated[int, Option(help="Pictures per prompt, of seeds S, S+1, ...")] = 1,
    seed: Annotated[int | None, Option(help="Same seed, same picture. Random if absent.")] = None,
    best_of: Annotated[int | None, Option(help="Tries per picture, of which the best match is kept; the model's own number by default.")] = None,
    steps: Annotated[int | None, Option(help="Sampler steps; the model's own number by default.")] = None,
    guidance_scale: Annotated[float | None, Option(help="How closely to follow the text; 1 is off.")] = None,
    guidance_rescale: Annotated[float | None, Option(help="0 to 1: pull back the contrast that guidance adds.")] = None,
    negative: Annotated[str | None, Option(help="What the picture should not show.")] = None,
    sampler: Annotated[str | None, Option(help="As dpmpp_2m, 'DPM++ 2M' or DPMSolverMultistepScheduler.")] = None,
    schedule: Annotated[str | None, Option(help="auto, uniform, karras, exponential, beta, sgm_uniform, simple, trailing, leading.")] = None,
    eta: Annotated[float | None, Option(help="Noise put back at each step by stochastic samplers, 0 to 1.")] = None,
    style: Annotated[str | None, Option(help="A style of the model; see sfumato models.")] = None,
    size: Annotated[str | None, Option(help="WxH in pixels.")] = None,
    model: Annotated[str | None, Option(help="A bundled name; or Stable Diffusion 1, 2, XL: a folder in diffusers' layout, a .safetensors.")] = None,
    source: Annotated[str | None, Option("--from", help="A picture to start from.")] = None,
    strength: Annotated[float | None, Option(help="How much of --from is made anew, 0 to 1.")] = None,
    mask: Annotated[str | None, Option(help="White = make anew; the other pixels stay bit for bit.")] = None,
    grid: Annotated[bool, Option(help="Also write all pictures on one sheet.")] = False,
    again: Annotated[Path | None, Option(help="Make the picture in this file once more, from its own settings.")] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, Option(help="auto, float32, bfloat16 or float16.")] = None,
    batch: Annotated[int | None, Option(help="Pictures made at once.")] = None,
    overwrite: Annotated[bool, Option(help="Replace pictures that are there.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON line per picture on stdout.")] = False,
) -> None:
    """Make pictures from texts."""
    from sfumato.errors import OptionError
    from sfumato.image import JPEG_TOUCHES
    from sfumato.metadata import FORMATS
    from sfumato.tasks.create import prompts as texts
    from sfumato.tasks.create.options import CreateOptions

    values = {
        "count": count, "seed": seed, "best_of": best_of, "steps": steps, "guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale,
        "negative_prompt": negative, "sampler": sampler, "schedule": schedule, "eta": eta, "style": style, "size": size,
        "model": model, "source": source, "strength": strength, "mask": mask, "device": device, "dtype": dtype, "batch": batch,
    }  # fmt: skip
    opened = None
    if again is not None:
        wanted, values, opened = texts.again(again, values, texts.gather(prompt or [], prompts) if prompt or prompts else ())
    else:
        wanted = texts.gather(prompt or [], prompts)
    if strength is not None and not values["source"] and not any("source" in dict(item.own) for item in wanted):
        raise OptionError(texts.NO_SOURCE)
    CreateOptions.build(values)  # before pictures are counted
    saver = texts.Saver(output or Path("pictures"), overwrite=overwrite, single=len(wanted) * count <= 1)
    saver.check(wanted, values, grid=grid)
    finished = []
    for item, made in _with_progress(wanted, values, opened):
        path = saver.save(item, made)
        finished += [made.picture] if grid else []
        line = {"path": str(path), "seed": made.seed, "seconds": round(made.seconds, 3), "settings": made.settings}
        say(json.dumps(line) if as_json else str(path))
        if made.unknown:
            note(f'the model knows no word of "{shortened(made.prompt)}"')
        for what, cut in (("prompt", made.cut), ("negative prompt", made.negative_cut)):
            if cut:
                note(f'the end of the {what} was not seen by the model: "{cut}"')
        if made.settings.get("mask") and FORMATS[path.suffix.lower()] == "JPEG":
            note(f"{path}: {JPEG_TOUCHES}")
    if grid:
        say(str(saver.sheet(finished)), err=as_json)


def _with_progress(wanted: list[Prompt], values: dict[str, Any], model: Model | None) -> Iterator[tuple[Prompt, Made]]:
    from sfumato.tasks.create.prompts import run
    from sfumato.tasks.create.run import SamplerProgress

    with bar() as progress:
        for item, event in run(wanted, values, model):
            if isinstance(event, SamplerProgress):
                progress.update("steps", event.done * event.steps + event.step.index + 1, event.total * event.steps)
            elif item is not None:
                yield item, event


def models(as_json: Annotated[bool, Option("--json", help="As JSON.")] = False) -> None:
    """List the bundled models, their sizes and styles."""
    from sfumato.hub.describe import describe
    from sfumato.hub.load import bundled, restorers

    found = [describe(name) for name in (*bundled(), *restorers())]
    if as_json:
        say(json.dumps(found, indent=2), keep="\n")
        return
    for record in found:
        say(f"{record['name']}: {record['description']}")
        size = f"{record['size'][0]}x{record['size'][1]} pixels" if "size" in record else "any size"
        say(f"  {size}, {record['megabytes']} MB, licence {record['licence']}")
        if "styles" in record:
            say(f"  styles: {', '.join(record['styles']) or 'none'}")


def inspect(path: Annotated[str, typer.Argument(help="A picture, or a model's name or folder.")]) -> None:
    """Print how a picture was made, or what is in a model."""
    from sfumato import metadata
    from sfumato.hub.describe import describe
    from sfumato.hub.load import bundled, restorers

    if path in (*bundled(), *restorers()) or Path(path).is_dir() or Path(path).suffix == ".safetensors":
        say(json.dumps(describe(path), indent=2), keep="\n")
        return
    settings, text = metadata.read(Path(path))
    if text or not settings:
        say(text or "the picture carries no generation parameters", keep="\n")
    if settings:
        say(json.dumps(settings, indent=2, ensure_ascii=False), keep="\n")
