"""``reduce``: compare PCA or LSA with autoencoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import data_path, given, takes
from sfumato.cli.say import PARTLY, note_all, say
from sfumato.tasks.reduce.options import ReduceOptions

Argument, Option = typer.Argument, typer.Option


@takes(ReduceOptions)
def reduce(
    data: Annotated[
        Path,
        Argument(
            parser=data_path,
            help="Folder of pictures or texts, .zip, .npz, .npy, idx.gz, .csv or .parquet.",
        ),
    ],
    output: Annotated[
        Path,
        Option(parser=data_path, help="Folder for report.html, report.json and the figures."),
    ] = Path("report"),
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing report.")] = False,
    as_json: Annotated[
        bool, Option("--json", help="Print the numbers of the report as JSON on stdout.")
    ] = False,
    **values: Any,
) -> None:
    """Compare PCA (LSA for documents) with autoencoders at equal code lengths, and write a
    report.
    """
    options = ReduceOptions.build(given(values))  # wrong options are told before slow imports

    from sfumato.errors import OptionError
    from sfumato.runtime import check_file, check_folder
    from sfumato.tasks.reduce.compare import gather
    from sfumato.tasks.reduce.report import FILES, check_plotting

    check_folder(output)
    for name in FILES:
        check_file(output / name, overwrite=overwrite)
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise OptionError(
            f"{output} lies in {data}: the report's pictures would be read as data; give another "
            "--output"
        )
    check_plotting()
    table = gather(data, options)
    note_all(table.skipped, "left out: ")
    note_all(table.notes)
    _compare(table, options, output, data, as_json=as_json)
    if table.skipped:
        raise typer.Exit(PARTLY)


def _compare(
    table: Any, options: ReduceOptions, output: Path, data: Path, *, as_json: bool
) -> None:
    from sfumato.tasks.reduce.compare import compare, start
    from sfumato.tasks.reduce.report import record, write
    from sfumato.types import Progress

    found = start(table, options)
    note_all(found.table.notes[len(table.notes) :])  # on the code lengths
    with bar() as progress:
        for event in compare(found):
            if isinstance(event, Progress):
                progress.update(event.what, event.done, event.total)
            else:
                say(
                    f"{event.method}, codes of length {event.codes}: error {event.error:.4g}, "
                    f"{event.seconds:.1f} s",
                    err=True,
                )
    path = write(found, output, str(data))
    for sentence in found.verdict():
        say(sentence, err=as_json)
    say(json.dumps(record(found, str(data))) if as_json else str(path))
