"""``reduce``: PCA or LSA against autoencoders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.say import note, say

Option = typer.Option
Seed = Annotated[int | None, Option(help="Seed of weights and batches.")]
Device = Annotated[str | None, Option(help="auto, cpu, cuda or mps.")]


def reduce(
    data: Annotated[Path, typer.Argument(help="Folder of pictures or texts, .zip, .npz, .npy, idx.gz, .csv or .parquet.")],
    output: Annotated[Path, Option(help="Folder for report.html, report.json and the figures.")] = Path("report"),
    codes: Annotated[str, Option(help="Code lengths to compare, as 2,10,30.")] = "2,10,30",
    corruption: Annotated[str | None, Option(help="Make the autoencoders denoising ones: noise:25, mask:0.3, ...; documents: mask:0.5.")] = None,
    loss: Annotated[str | None, Option(help="squared or cross_entropy.")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the data; so many that small sets see enough steps by default.")] = None,
    layers: Annotated[str | None, Option(help="Hidden widths of the dense autoencoder, as 1000,500,250.")] = None,
    neighbours: Annotated[int | None, Option(help="k of the k-NN accuracy.")] = None,
    outliers: Annotated[float | None, Option(help="Share of rows replaced in the outlier experiment; 0 leaves it out.")] = None,
    weighting: Annotated[str | None, Option(help="Of documents: tf-idf, log or counts.")] = None,
    standardize: Annotated[bool, Option(help="Bring the columns of a table to mean 0 and deviation 1 first.")] = True,
    size: Annotated[int | None, Option(help="Side in pixels that pictures are brought to.")] = None,
    label: Annotated[str | None, Option(help="Column or array that holds the labels.")] = None,
    limit: Annotated[int | None, Option(help="Use that many rows, drawn at random.")] = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Annotated[str | None, Option(help="auto, float32, bfloat16 or float16; auto is what the device is good at.")] = None,
    as_json: Annotated[bool, Option("--json", help="The report's figures on stdout.")] = False,
) -> None:  # fmt: skip
    """Compare PCA (LSA for documents) with autoencoders at equal code lengths, and write a report."""
    from sfumato.data.rows import read
    from sfumato.errors import OptionError
    from sfumato.runtime import check_folder
    from sfumato.tasks.reduce.compare import ReduceOptions
    from sfumato.tasks.reduce.report import ready

    values = {
        "codes": _numbers(codes, "codes"), "corruption": corruption, "loss": loss, "epochs": epochs, "layers": _numbers(layers, "layers"),
        "neighbours": neighbours, "outliers": outliers, "weighting": weighting, "standardize": standardize, "seed": seed, "device": device,
        "dtype": dtype,
    }  # fmt: skip
    options = ReduceOptions.build(values)
    check_folder(output)
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise OptionError(f"{output} lies in {data}, where the report's pictures would become data; give another --output")
    ready()
    table = read(data, size=size, label=label)
    for line in table.skipped[:10]:
        note(f"left out: {line}")
    for line in table.notes[:10]:
        note(line)
    if limit is not None and limit < len(table):
        table = table.take(_some(len(table), limit, options.seed))
    _compare(table, options, output, data, as_json=as_json)


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
    from sfumato.tasks.reduce import compare as work
    from sfumato.tasks.reduce.report import record, write

    found = work.start(table, options)
    with bar() as progress:
        for event in work.compare(found):
            if isinstance(event, work.Note):
                progress.update(event.text, event.done, event.total)
            else:
                say(f"{event.method}, {event.codes} codes: error {event.error:.4g}, {event.seconds:.1f} s", err=True)
    path = write(found, output, str(data))
    for sentence in found.verdict():
        say(sentence, err=as_json)
    say(json.dumps(record(found, str(data))) if as_json else str(path))
