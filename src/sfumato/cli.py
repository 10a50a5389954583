"""The command line: one short function per verb. Parsing and printing only; results on stdout, progress on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato import __version__

if TYPE_CHECKING:
    from sfumato.tasks.create import Made
    from sfumato.tasks.prompts import Prompt

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split(":")[0] if __doc__ else None)
train_app = typer.Typer(no_args_is_help=True, help="Train a model on your own data; resumes where it was interrupted.")
app.add_typer(train_app, name="train")

Option = typer.Option


def main() -> None:
    """Run the command line; a known error becomes one sentence and exit code 2."""
    from sfumato.errors import SfumatoError

    try:
        app()
    except SfumatoError as error:
        sys.stderr.write(f"sfumato: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("sfumato: interrupted\n")
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfumato {__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Everything is a denoising autoencoder: choose a corruption, learn to undo it, guide it with text."""


@app.command()
def create(  # a command's signature is its help page: it is as long as its options
    prompt: Annotated[list[str] | None, typer.Argument(help="What the picture shows; several make several pictures.")] = None,
    prompts: Annotated[Path | None, Option(help="File of prompts: .txt (a line each), .jsonl or .csv (prompt, id, seed, negative_prompt).")] = None,
    output: Annotated[Path | None, Option(help="FILE.png (.jpg, .webp) or FOLDER/; pictures/ by default.")] = None,
    count: Annotated[int, Option(help="Pictures per prompt, of seeds S, S+1, ...")] = 1,
    seed: Annotated[int | None, Option(help="Same seed, same picture. Random if absent.")] = None,
    steps: Annotated[int | None, Option(help="Sampler steps; the model's own number by default.")] = None,
    guidance_scale: Annotated[float | None, Option(help="How closely to follow the text; 1 is off.")] = None,
    guidance_rescale: Annotated[float | None, Option(help="0 to 1: pull back the contrast that guidance adds.")] = None,
    negative: Annotated[str | None, Option(help="What the picture should not show.")] = None,
    sampler: Annotated[str | None, Option(help="As dpmpp_2m, 'DPM++ 2M' or DPMSolverMultistepScheduler.")] = None,
    schedule: Annotated[str | None, Option(help="auto, uniform, karras, exponential, beta, sgm_uniform, simple, trailing, leading.")] = None,
    eta: Annotated[float | None, Option(help="Noise put back at each step by stochastic samplers, 0 to 1.")] = None,
    style: Annotated[str | None, Option(help="A style of the model; see sfumato models.")] = None,
    size: Annotated[str | None, Option(help="WxH in pixels.")] = None,
    model: Annotated[str | None, Option(help="A bundled name, a folder in diffusers' layout, or a .safetensors checkpoint.")] = None,
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
    from sfumato.tasks import prompts as texts

    values = {
        "count": count, "seed": seed, "steps": steps, "guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale,
        "negative_prompt": negative, "sampler": sampler, "schedule": schedule, "eta": eta, "style": style, "size": _size(size),
        "model": model, "source": source, "strength": strength, "mask": mask, "device": device, "dtype": dtype, "batch": batch,
    }  # fmt: skip
    if again is not None:
        wanted, values = texts.again(again, values)
    else:
        wanted = texts.gather(prompt or [], prompts)
    saver = texts.Saver(output or Path("pictures"), overwrite=overwrite, single=len(wanted) * count == 1)
    saver.check(wanted, values)
    finished = []
    for item, made in _with_progress(wanted, values):
        path = saver.save(item, made)
        finished.append(made.picture)
        line = {"path": str(path), "seed": made.seed, "seconds": round(made.seconds, 3), "settings": made.settings}
        typer.echo(json.dumps(line) if as_json else str(path))
        if made.cut:
            typer.echo(f'sfumato: the end of the prompt was not seen by the model: "{made.cut}"', err=True)
    if grid:
        typer.echo(str(saver.sheet(finished)), err=as_json)


def _with_progress(wanted: list[Prompt], values: dict[str, Any]) -> Iterator[tuple[Prompt, Made]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sfumato.tasks.create import Moment
    from sfumato.tasks.prompts import run

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("steps")
        for item, event in run(wanted, values):
            if isinstance(event, Moment):
                batches = -(-event.total // max(1, event.step.x.shape[0]))
                done = event.done // max(1, event.step.x.shape[0]) * event.steps + event.step.index + 1
                bar.update(line, total=max(done, batches * event.steps), completed=done)
            elif item is not None:
                yield item, event


def _size(text: str | None) -> tuple[int, int] | None:
    from sfumato.errors import OptionError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+)\s*[xX]\s*(\d+)", text)
    if not match:
        raise OptionError(f'size "{text}" cannot be read; write WIDTHxHEIGHT, as 64x64')
    return int(match[1]), int(match[2])


@app.command()
def reduce(
    data: Annotated[Path, typer.Argument(help="Folder of pictures or texts, .zip, .npz, .npy, idx.gz, .csv or .parquet.")],
    output: Annotated[Path, Option(help="Folder for report.html, report.json and the figures.")] = Path("report"),
    codes: Annotated[str, Option(help="Code lengths to compare, as 2,10,30.")] = "2,10,30",
    corruption: Annotated[str | None, Option(help="Make the autoencoders denoising ones: noise:25, mask:0.3, ...")] = None,
    loss: Annotated[str | None, Option(help="squared or cross_entropy.")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the data; so many that small sets see enough steps by default.")] = None,
    layers: Annotated[str | None, Option(help="Hidden widths of the dense autoencoder, as 1000,500,250.")] = None,
    neighbours: Annotated[int | None, Option(help="k of the k-NN accuracy.")] = None,
    outliers: Annotated[float | None, Option(help="Share of rows replaced in the outlier experiment; 0 leaves it out.")] = None,
    weighting: Annotated[str | None, Option(help="Of documents: tf-idf, log or counts.")] = None,
    size: Annotated[int | None, Option(help="Side in pixels that pictures are brought to.")] = None,
    label: Annotated[str | None, Option(help="Column or array that holds the labels.")] = None,
    limit: Annotated[int | None, Option(help="Use that many rows, drawn at random.")] = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Annotated[bool, Option("--json", help="The report's figures on stdout.")] = False,
) -> None:  # fmt: skip
    """Compare PCA (LSA for documents) with autoencoders at equal code lengths, and write a report."""
    from sfumato.tasks.rows import read

    values = {
        "codes": _numbers(codes, "codes"), "corruption": corruption, "loss": loss, "epochs": epochs, "layers": _numbers(layers, "layers"),
        "neighbours": neighbours, "outliers": outliers, "weighting": weighting, "seed": seed, "device": device,
    }  # fmt: skip
    options = _options(values)
    table = read(data, size=size, label=label)
    for line in table.skipped[:10]:
        typer.echo(f"sfumato: left out: {line}", err=True)
    if limit is not None and limit < len(table):
        table = table.take(_some(len(table), limit, options.seed))
    _compare(table, options, output, data, as_json=as_json)


def _options(values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from sfumato.errors import OptionError
    from sfumato.tasks.reduce import ReduceOptions
    from sfumato.types import explain

    try:
        return ReduceOptions(**{k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise OptionError(explain(error)) from None


def _some(count: int, limit: int, seed: int) -> Any:
    import numpy as np

    return np.sort(np.random.default_rng(seed).permutation(count)[: max(1, limit)])


def _numbers(text: str | None, what: str) -> tuple[int, ...] | None:
    from sfumato.errors import OptionError

    if text is None:
        return None
    if not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", text):
        raise OptionError(f'{what} "{text}" cannot be read; write numbers from 1 on, as 2,10,30')
    return tuple(int(n) for n in text.split(","))


def _compare(table: Any, options: Any, output: Path, data: Path, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sfumato.tasks import reduce as work
    from sfumato.tasks.report import record, write

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    found = work.start(table, options)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("fits")
        for event in work.compare(found):
            if isinstance(event, work.Note):
                bar.update(line, description=event.text, completed=event.done, total=event.total)
            else:
                console.print(f"{event.method}, {event.codes} codes: error {event.error:.4g}, {event.seconds:.1f} s", highlight=False)
    path = write(found, output, str(data))
    for sentence in work.verdict(found):
        typer.echo(sentence, err=as_json)
    typer.echo(json.dumps(record(found, str(data))) if as_json else str(path))


@app.command("index")
def index_(
    data: Annotated[Path, typer.Argument(help="Folder of pictures or .txt files, .parquet or .tar.")],
    output: Annotated[Path, Option(help="Folder of the index; given again, it is brought up to date.")],
    space: Annotated[str | None, Option(help="pca:30, autoencoder:30, lsa:128, or the folder of a saved estimator.")] = None,
    side: Annotated[int, Option(help="Side in pixels that pictures are brought to.")] = 32,
) -> None:
    """Index pictures or documents for search; encodes only what is new or changed."""
    from rich.console import Console
    from rich.progress import track

    from sfumato.tasks.search import BATCH, index

    events = index(data, output, space, side=side)
    last = next(events)
    console = Console(stderr=True)
    many = -(-last.total // BATCH) + 1
    for event in track(events, "indexing", total=many, console=console, transient=True, disable=not console.is_terminal):
        last = event
    for line in last.skipped[:10]:
        typer.echo(f"sfumato: left out: {line}", err=True)
    typer.echo(f"{last.total} items encoded, {last.removed} removed, {len(last.skipped)} left out: {output}")


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="Folder of an index.")],
    query: Annotated[str, typer.Argument(help="Words, or a picture or text file.")],
    k: Annotated[int, Option("-k", help="How many results.")] = 12,
    where: Annotated[str | None, Option(help="SQL over name, label and text, as label = 'cat'.")] = None,
    output: Annotated[Path | None, Option(help="Write the pictures found on one sheet.")] = None,
    overwrite: Annotated[bool, Option(help="Replace the sheet that is there.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON line per result.")] = False,
) -> None:
    """Find the items of an index that are nearest to words or to an example."""
    from sfumato.errors import OptionError
    from sfumato.runtime import atomic
    from sfumato.tasks import search as work

    if output is not None and output.exists() and not overwrite:
        raise OptionError(f"{output} exists; give another --output, or --overwrite")
    hits = work.search(folder, query, k, where)
    for hit in hits:
        row = f"{hit.similarity:.3f}  {hit.name}" + (f"  [{hit.label}]" if hit.label else "") + (f"  {hit.text[:80]}" if hit.text else "")
        typer.echo(json.dumps(hit.__dict__, ensure_ascii=False) if as_json else row)
    if output is not None:
        with atomic(output) as scratch:
            work.pictures(folder, hits).save(scratch)
        typer.echo(str(output), err=as_json)


@app.command()
def models(as_json: Annotated[bool, Option("--json", help="As JSON.")] = False) -> None:
    """List the bundled models, their sizes and styles."""
    from sfumato.hub.describe import describe
    from sfumato.hub.load import bundled

    found = [describe(name) for name in bundled()]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for record in found:
        typer.echo(f"{record['name']}: {record['description']}")
        typer.echo(f"  {record['size'][0]}x{record['size'][1]} pixels, {record['megabytes']} MB, licence {record['licence']}")
        typer.echo(f"  styles: {', '.join(record['styles']) or 'none'}")


@app.command()
def inspect(path: Annotated[str, typer.Argument(help="A picture, or a model's name or folder.")]) -> None:
    """Print how a picture was made, or what is in a model."""
    from sfumato import metadata
    from sfumato.hub.describe import describe
    from sfumato.hub.load import bundled

    if path in bundled() or Path(path).is_dir() or Path(path).suffix == ".safetensors":
        typer.echo(json.dumps(describe(path), indent=2))
        return
    settings, text = metadata.read(Path(path))
    typer.echo(text or "the picture carries no generation parameters")
    if settings:
        typer.echo(json.dumps(settings, indent=2, ensure_ascii=False))


Data = Annotated[Path, typer.Argument(help="Folder of pictures, .parquet or WebDataset .tar.")]
Output = Annotated[Path, Option(help="Folder of the model; holds checkpoints and previews, too.")]
ConfigFile = Annotated[Path | None, Option(help="JSON of the network's config and of training settings.")]
Steps = Annotated[int | None, Option(help="Training steps.")]
Batch = Annotated[int | None, Option(help="Samples per step.")]
Rate = Annotated[float | None, Option(help="Learning rate.")]
Seed = Annotated[int | None, Option(help="Seed of weights and batches.")]
Device = Annotated[str | None, Option(help="auto, cpu, cuda or mps.")]


@train_app.command("text")
def train_text(
    data: Data,
    output: Output,
    config: ConfigFile = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Learn a tokenizer and distil a text encoder from phrases with a teacher's embeddings (.parquet)."""
    from sfumato.train.run import train_text as work

    _train(work(data, output, config, _given(steps, batch, rate, seed, device)), output)


@train_app.command("autoencoder")
def train_autoencoder(
    data: Data,
    output: Output,
    config: ConfigFile = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Train the autoencoder of latent diffusion on pictures."""
    from sfumato.train.run import train_autoencoder as work

    _train(work(data, output, config, _given(steps, batch, rate, seed, device)), output)


@train_app.command("diffusion")
def train_diffusion(
    data: Data, output: Output,
    autoencoder: Annotated[Path, Option(help="Folder written by train autoencoder.")],
    text: Annotated[Path, Option(help="Folder written by train text.")],
    config: ConfigFile = None, steps: Steps = None, batch: Batch = None, rate: Rate = None, seed: Seed = None, device: Device = None,
) -> None:  # fmt: skip
    """Train text-to-image diffusion on captioned pictures; writes a whole model folder."""
    from sfumato.train.run import train_diffusion as work

    _train(work(data, output, autoencoder, text, config, _given(steps, batch, rate, seed, device)), output)


def _given(steps: int | None, batch: int | None, rate: float | None, seed: int | None, device: str | None) -> dict[str, Any]:
    values = {"steps": steps, "batch": batch, "rate": rate, "seed": seed, "device": device}
    return {k: v for k, v in values.items() if v is not None}


def _train(events: Iterator[Any], output: Path) -> None:
    """Show a training run: a bar with loss, rate and time left, TensorBoard files, and notes as they come."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sfumato.train.board import Board

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, console=console) as bar, Board(output / "tensorboard") as board:
        line = bar.add_task("training", note="")
        for event in events:
            if isinstance(event, str):
                console.print(event, highlight=False)
                continue
            board.write(event)
            bar.update(line, total=event.steps, completed=event.step, note=f"loss {event.loss:.4f}  {event.rate:.0f} samples/s")
    typer.echo(str(output))


if __name__ == "__main__":
    main()
