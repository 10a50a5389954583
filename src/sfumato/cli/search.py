"""``index`` and ``search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import data_path, given, takes
from sfumato.cli.say import PARTLY, note, note_all, say
from sfumato.tasks.search.options import IndexOptions, SearchOptions

Argument, Option = typer.Argument, typer.Option


@takes(IndexOptions)
def index(
    data: Annotated[
        Path,
        Argument(parser=data_path, help="Folder of pictures or .txt files, .parquet or .tar."),
    ],
    output: Annotated[Path, Option(help="Folder of the index; an existing index is updated.")],
    **values: Any,
) -> None:
    """Index pictures or documents for search; only new and changed items are encoded."""
    from sfumato.tasks.search.index import APPROXIMATE, indexing
    from sfumato.tasks.search.items import ignored_texts

    options = IndexOptions.build(given(values))
    with bar() as progress:
        for last in indexing(data, output, options.space, side=options.side):
            progress.update("indexing", last.done, last.total)
    note_all(last.skipped, "left out: ")
    note_all(last.notes)
    say(
        f"{last.total - len(last.skipped)} items encoded, {last.removed} removed, "
        f"{len(last.skipped)} left out: {output}"
    )
    if texts := ignored_texts(data):
        note(f"{texts} .txt files are not indexed, as {data} also has pictures")
    if last.recall is not None:
        note(
            f"search is approximate from {APPROXIMATE:,} items on: it finds {last.recall:.1%} "
            "of the true nearest items"
        )
    if last.skipped:
        raise typer.Exit(PARTLY)


@takes(SearchOptions)
def search(
    folder: Annotated[Path, Argument(parser=data_path, help="Folder of an index.")],
    words: Annotated[str | None, Argument(help="Words to search for.")] = None,
    like: Annotated[
        Path | None, Option(help="Search by an example instead: a picture or text file.")
    ] = None,
    output: Annotated[
        Path | None, Option(help="Write a sheet with the found pictures to this file.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing sheet.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON line per result.")] = False,
    **values: Any,
) -> None:
    """Find the items of an index that are nearest to words or to an example."""
    options = SearchOptions.build(given(values))  # wrong options are told before slow imports

    from sfumato.errors import OptionError
    from sfumato.metadata import FORMATS
    from sfumato.runtime import atomic, check_file
    from sfumato.tasks.search import query

    if output is not None and output.suffix.lower() not in FORMATS:
        raise OptionError(f"{output}: pictures are written as {', '.join(FORMATS)}")
    if output is not None:
        check_file(output, overwrite=overwrite)
    hits = query.search(folder, words, options.k, options.where, like=like, note=note)
    if output is not None:  # before the lines: the program that reads them may close the pipe
        with atomic(output) as scratch:
            query.pictures(folder, hits).save(scratch)
    for hit in hits:
        row = (
            f"{hit.similarity:.3f}  {hit.name}"
            + (f"  [{hit.label}]" if hit.label else "")
            + (f"  {hit.text[:80]}" if hit.text else "")
        )
        say(json.dumps(hit.__dict__, ensure_ascii=False) if as_json else row)
    if output is not None:
        say(str(output), err=as_json)
