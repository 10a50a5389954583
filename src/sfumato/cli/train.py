"""``train text``, ``autoencoder``, ``diffusion``, ``matcher``, ``upscaler``, ``student``
and ``restorer``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import data_path, given, takes
from sfumato.cli.say import note, say
from sfumato.train.settings import TrainSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model on your own data; the same command resumes an interrupted run.",
)
Argument, Option = typer.Argument, typer.Option
Data = Annotated[
    Path, Argument(parser=data_path, help="Folder of pictures, .parquet or WebDataset .tar.")
]
Full = Annotated[
    bool,
    Option(
        "--full",
        help="With --start: train all weights and write a whole model. Otherwise, a LoRA is "
        "trained, a small file that changes the model.",
    ),
]
Output = Annotated[
    Path, Option(parser=data_path, help="Folder of the model, with its checkpoints and previews.")
]
ConfigFile = Annotated[
    Path | None, Option(help="JSON file with the network's config and training settings.")
]
settings = takes(
    TrainSettings,
    only={"steps", "batch", "learning_rate", "seed", "device", "dtype"},
    defaults=False,
)


@app.command("text")
@settings
def train_text(
    data: Annotated[
        Path,
        Argument(parser=data_path, help="A .parquet with the columns text, weight and embedding."),
    ],
    output: Output,
    start: Annotated[
        Path | None,
        Option(help="Text encoder to teach more words: a folder, or the name of a bundled model."),
    ] = None,
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a tokenizer and a text encoder on phrases.

    The text encoder is distilled: it learns the embeddings that a larger encoder (the teacher) gave
    for these phrases.
    """
    from sfumato.train.text import train_text

    _train(train_text(data, output, config, given(values), start), output)


@app.command("autoencoder")
@settings
def train_autoencoder(
    data: Data,
    output: Output,
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train the autoencoder of latent diffusion on pictures."""
    from sfumato.train.autoencoder import train_autoencoder

    _train(train_autoencoder(data, output, config, given(values)), output)


@app.command("diffusion")
@settings
def train_diffusion(
    data: Data,
    output: Output,
    autoencoder: Annotated[
        Path | None,
        Option(
            help="Folder written by train autoencoder, folder of a model, or name of a bundled "
            "model."
        ),
    ] = None,
    pixels: Annotated[
        bool,
        Option(
            "--pixels",
            help="Train on pixels instead of latents: slower, but without an autoencoder's errors.",
        ),
    ] = False,
    text: Annotated[
        Path | None,
        Option(
            help="Folder written by train text, or the name of a bundled model; icons by default."
        ),
    ] = None,
    start: Annotated[
        str | None,
        Option(
            help="Model to fine-tune: a bundled name, a folder or a checkpoint. It brings its own "
            "autoencoder and text encoder, so leave out --autoencoder and --text."
        ),
    ] = None,
    full: Full = False,
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a text-to-image diffusion model on captioned pictures.

    The result is a LoRA if --start is given without --full, otherwise a whole model folder.
    """
    from sfumato.errors import OptionError
    from sfumato.train.diffusion import train_diffusion
    from sfumato.train.lora import train_lora

    if full and start is None:
        raise OptionError("--full needs --start, the model whose weights are all trained")
    train_model = train_lora if start is not None and not full else train_diffusion
    _train(
        train_model(data, output, autoencoder, text, config, given(values), start, pixels=pixels),
        output,
    )


@app.command("matcher")
@settings
def train_matcher(
    data: Data,
    output: Output,
    text: Annotated[
        Path,
        Option(help="Folder written by train text, folder of a model, or name of a bundled model."),
    ],
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a network that scores how well a picture matches a text.

    It is for create --best-of, and for the search of pictures by words.
    """
    from sfumato.train.match import train_matcher

    _train(train_matcher(data, output, text, config, given(values)), output)


@app.command("upscaler")
@settings
def train_upscaler(
    data: Data,
    output: Output,
    model: Annotated[
        str,
        Option(help="Model whose pictures are enlarged: a bundled name, a folder or a checkpoint."),
    ] = "icons",
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a network that enlarges a model's pictures by a factor of 4: for create --size."""
    from sfumato.train.upscaler import train_upscaler

    _train(train_upscaler(data, output, model, config, given(values)), output)


@app.command("student")
@settings
def train_student(
    data: Data,
    output: Output,
    model: Annotated[
        str, Option(help="The teacher: a bundled name, a folder or a checkpoint.")
    ] = "icons",
    start: Annotated[
        Path | None,
        Option(help="A student to continue training: a folder that this command wrote."),
    ] = None,
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a LoRA with which a model needs fewer network evaluations, for create --fast.

    The LoRA is distilled from the model. With it, the model "icons" needs a quarter of the
    evaluations.
    """
    from sfumato.train.student import train_student

    _train(train_student(data, output, model, config, given(values), start), output)


@app.command("restorer")
@settings
def train_restorer(
    data: Data,
    output: Output,
    corruption: Annotated[
        str | None,
        Option(
            help="Corruption to undo; | separates alternatives, as in 'noise:0-50 | mask:strokes'. "
            "Leave it out if DATA has pairs of pictures in clean/ and dirty/."
        ),
    ] = None,
    start: Annotated[
        Path | None,
        Option(
            help="A restorer to continue training: a folder, or the name of a bundled restorer."
        ),
    ] = None,
    config: ConfigFile = None,
    **values: Any,
) -> None:
    """Train a network that repairs photographs.

    It learns from synthetic damage or from pairs of damaged and clean pictures.
    """
    from sfumato.train.restoration import train_restorer

    _train(train_restorer(data, output, corruption, config, given(values), start), output)


def _train(events: Iterator[Any], output: Path) -> None:
    """Run a training command: show its progress, write TensorBoard files, and print notes."""
    from sfumato.runtime import check_folder
    from sfumato.train.board import Board
    from sfumato.types import Progress

    check_folder(output)
    started, stop = False, _Stop()
    with stop, bar() as progress, Board(output / "tensorboard") as board:
        for event in events:
            if isinstance(event, str):
                say(event, err=True, keep="\n")
                continue
            if isinstance(event, Progress):
                progress.update(event.what, event.done, event.total)
                continue
            if stop.asked and event.step < event.steps:
                events.close()  # type: ignore[attr-defined]  # writes a checkpoint
                note(f"stopped after step {event.step}; the same command continues")
                raise KeyboardInterrupt
            if not started and event.step > 1:
                note(f"the run resumes after step {event.step - 1} of {event.steps}")
            started = stop.waits = True
            board.write(event)
            progress.update(
                "training",
                event.step,
                event.steps,
                f"loss {event.loss:.4f}  {event.samples_per_second:.3g} samples/s",
            )
    if not started:
        note("the training was finished before; there is nothing left to do")
    say(str(output))


class _Stop:
    """Waits for the end of a training step if the user presses Ctrl-C, so that no step is lost.

    After the last step, the model is still written. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.waits = self.asked = False
        self.before: Any = None

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _stop(self, *_: object) -> None:
        if not self.waits or self.asked:
            raise KeyboardInterrupt
        self.asked = True
