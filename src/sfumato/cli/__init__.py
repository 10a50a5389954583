"""The command line: one short function per command, to parse arguments and print results.

Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sfumato import __version__
from sfumato.cli import create, evaluate, explain, reduce, restore, search, serve, train
from sfumato.cli.command import help_of
from sfumato.cli.say import FAILED, note, say

INTERRUPTED = 130  # typer's exit code at Ctrl-C: 128 plus the number of SIGINT
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line.

    For an expected error, print one sentence to stderr and exit with code 2.
    """
    from sfumato.errors import SfumatoError

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a console's encoding may lack letters of a prompt or a name
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SfumatoError as error:
        note(str(error))
        sys.exit(FAILED)
    except OSError as error:  # a full disk, or a path without write permission
        note(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error))
        sys.exit(FAILED)
    except (RuntimeError, MemoryError) as error:
        if (
            not isinstance(error, MemoryError)
            and "out of memory" not in str(error)
            and "can't allocate memory" not in str(error)
        ):
            raise  # not torch's message that a GPU or CPU is out of memory
        note("there is not enough memory for this command; try a smaller --size or --batch")
        sys.exit(FAILED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            note("interrupted")
        raise


def _version(wanted: bool) -> None:
    if wanted:
        say(f"sfumato {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Create, restore and explain pictures, compare PCA with autoencoders, search pictures and
    documents, and train models.

    Most models are denoising autoencoders: they learn to undo a corruption of their input.
    """


app.callback(help=help_of(root))(root)
app.command(help=help_of(create.create))(create.create)
app.command(cls=restore.RestoreCommand, help=help_of(restore.restore))(restore.restore)
for command in (
    reduce.reduce,
    search.index,
    search.search,
    explain.explain,
    serve.serve,
    create.models,
    create.inspect,
):
    app.command(help=help_of(command))(command)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
