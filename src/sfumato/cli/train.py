"""``train text``, ``autoencoder``, ``diffusion``, ``matcher`` and ``restorer``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.say import note, say

app = typer.Typer(no_args_is_help=True, help="Train a model on your own data; resumes where it was interrupted.")
Option = typer.Option
Seed = Annotated[int | None, Option(help="Seed of weights and batches.")]
Device = Annotated[str | None, Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str | None, Option(help="auto, float32, bfloat16 or float16; auto is what the device is good at.")]
Data = Annotated[Path, typer.Argument(help="Folder of pictures, .parquet or WebDataset .tar.")]
Output = Annotated[Path, Option(help="Folder of the model; holds checkpoints and previews, too.")]
ConfigFile = Annotated[Path | None, Option(help="JSON of the network's config and of training settings.")]
Steps = Annotated[int | None, Option(help="Training steps; docs/train.md has what is usual.")]
Batch = Annotated[int | None, Option(help="Samples per step.")]
Rate = Annotated[float | None, Option(help="Learning rate.")]


@app.command("text")
def train_text(
    data: Annotated[Path, typer.Argument(help="A .parquet with the columns text, weight and embedding.")], output: Output,
    start: Annotated[Path | None, Option(help="A text encoder to teach more words: a folder, or a bundled model's name.")] = None,
    config: ConfigFile = None, steps: Steps = None, batch: Batch = None, rate: Rate = None, seed: Seed = None, device: Device = None,
    dtype: Dtype = None,
) -> None:  # fmt: skip
    """Learn a tokenizer and distil a text encoder from phrases with a teacher's embeddings (.parquet)."""
    from sfumato.train.run import train_text as work

    _train(work(data, output, config, _given(steps, batch, rate, seed, device, dtype), start), output)


@app.command("autoencoder")
def train_autoencoder(
    data: Data,
    output: Output,
    config: ConfigFile = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Train the autoencoder of latent diffusion on pictures."""
    from sfumato.train.run import train_autoencoder as work

    _train(work(data, output, config, _given(steps, batch, rate, seed, device, dtype)), output)


@app.command("diffusion")
def train_diffusion(
    data: Data, output: Output,
    autoencoder: Annotated[Path | None, Option(help="Folder written by train autoencoder.")] = None,
    pixels: Annotated[bool, Option("--pixels", help="Work on pixels themselves instead: slower, without an autoencoder's losses.")] = False,
    text: Annotated[Path | None, Option(help="Folder written by train text, or the name of a bundled model; icons by default.")] = None,
    start: Annotated[str | None, Option(help="Instead of these a model to train on from: a bundled name, a folder or a checkpoint.")] = None,
    config: ConfigFile = None, steps: Steps = None, batch: Batch = None, rate: Rate = None, seed: Seed = None, device: Device = None,
    dtype: Dtype = None,
) -> None:  # fmt: skip
    """Train text-to-image diffusion on captioned pictures; writes a whole model folder."""
    from sfumato.train.run import train_diffusion as work

    _train(work(data, output, autoencoder, text, config, _given(steps, batch, rate, seed, device, dtype), start, pixels=pixels), output)


@app.command("matcher")
def train_matcher(
    data: Data, output: Output,
    text: Annotated[Path, Option(help="Folder written by train text or of a model, or the name of a bundled one.")],
    config: ConfigFile = None, steps: Steps = None, batch: Batch = None, rate: Rate = None, seed: Seed = None, device: Device = None,
    dtype: Dtype = None,
) -> None:  # fmt: skip
    """Train what tells how well a picture matches a text: for create --best-of, and to search pictures by words."""
    from sfumato.train.run import train_matcher as work

    _train(work(data, output, text, config, _given(steps, batch, rate, seed, device, dtype)), output)


@app.command("restorer")
def train_restorer(
    data: Data, output: Output,
    corruption: Annotated[str | None, Option(help="What it shall undo, as 'noise:0-50 | mask:strokes'; not for pairs in clean/ and dirty/.")] = None,
    start: Annotated[Path | None, Option(help="A restorer to train on from: a folder, or a bundled one's name.")] = None,
    config: ConfigFile = None, steps: Steps = None, batch: Batch = None, rate: Rate = None, seed: Seed = None, device: Device = None,
    dtype: Dtype = None,
) -> None:  # fmt: skip
    """Train a network that repairs photographs, or cleans what pairs of pictures show."""
    from sfumato.train.run import train_restorer as work

    _train(work(data, output, corruption, config, _given(steps, batch, rate, seed, device, dtype), start), output)


def _given(
    steps: int | None, batch: int | None, rate: float | None, seed: int | None, device: str | None, dtype: str | None
) -> dict[str, Any]:  # fmt: skip
    values = {"steps": steps, "batch": batch, "rate": rate, "seed": seed, "device": device, "dtype": dtype}
    return {k: v for k, v in values.items() if v is not None}


def _train(events: Iterator[Any], output: Path) -> None:
    """Show a training run: a bar with loss, rate and time left, TensorBoard files, and notes as they come."""
    from sfumato.runtime import check_folder
    from sfumato.train.board import Board

    check_folder(output)
    begun = False
    with bar() as progress, Board(output / "tensorboard") as board:
        for event in events:
            if isinstance(event, str):
                say(event, err=True, keep="\n")
                continue
            if not begun and event.step > 1:
                note(f"the run goes on after step {event.step - 1} of {event.steps}")
            begun = True
            board.write(event)
            progress.update("training", event.step, event.steps, f"loss {event.loss:.4f}  {event.rate:.3g} samples/s")
    say(str(output))
