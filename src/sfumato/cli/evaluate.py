"""``evaluate restore``: PSNR, SSIM and LPIPS by the conventions of published results."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import data_path, given, takes
from sfumato.cli.say import PARTLY, note, note_all, say
from sfumato.tasks.evaluate.options import EvaluateOptions

if TYPE_CHECKING:
    from sfumato.tasks.evaluate.restoration import Score

app = typer.Typer(no_args_is_help=True)
Argument, Option = typer.Argument, typer.Option


@app.callback()
def root() -> None:
    """Compute the standard quality measures of image restoration.

    The conventions are those of published results.
    """


@app.command()
@takes(EvaluateOptions)
def restore(
    data: Annotated[
        Path, Argument(parser=data_path, help="Folder of clean pictures, .parquet or .tar.")
    ],
    as_json: Annotated[bool, Option("--json", help="One JSON line per picture.")] = False,
    **values: Any,
) -> None:
    """Damage pictures, restore them, and print PSNR and SSIM.

    LPIPS is also printed if the package lpips and its AlexNet weights are installed.
    """
    options = EvaluateOptions.build(given(values))  # wrong options are told before slow imports

    from sfumato.errors import OptionError
    from sfumato.tasks.evaluate import restoration
    from sfumato.tasks.restore.networks import RestorationNetworks, check_undoes

    check_undoes(options.model, {options.damage[0]})
    engine = RestorationNetworks(options.model, options.device, options.dtype)
    scores, skipped = [], list[str]()
    with bar() as progress:
        for event in restoration.restore(
            data,
            *options.damage,
            gray=options.gray,
            method=options.method,
            engine=engine,
            left_out=skipped.append,
        ):
            if isinstance(event, restoration.Score):
                scores.append(event)
                say(_record(event) if as_json else _of_score(event))
            else:
                progress.update(event.what, event.done, event.total)
    note_all(skipped, "left out: ")
    if not scores:
        raise OptionError(f"none of the pictures in {data} could be measured")
    decibels = [s.psnr for s in scores if math.isfinite(s.psnr)]
    if exact := len(scores) - len(decibels):
        note(f"{exact} of {len(scores)} pictures restored exactly; an infinite PSNR is left out")
    psnr = statistics.fmean(decibels) if decibels else math.inf
    ssim = statistics.fmean(s.ssim for s in scores)
    distances = [s.lpips for s in scores if s.lpips is not None]
    lpips = statistics.fmean(distances) if distances else None
    say(_line(psnr, ssim, lpips, f"mean of {len(scores)}"), err=as_json)
    if skipped:
        raise typer.Exit(PARTLY)


def _record(score: Score) -> str:
    """A score as JSON; an infinite value becomes null."""
    from sfumato.runtime import json_safe

    values = {name: value for name, value in score.__dict__.items() if value is not None}
    return json.dumps(json_safe(values))


def _of_score(score: Score) -> str:
    return _line(score.psnr, score.ssim, score.lpips, score.name)


def _line(psnr: float, ssim: float, lpips: float | None, name: str) -> str:
    distance = "" if lpips is None else f"LPIPS {lpips:.4f}  "
    return f"{psnr:6.2f} dB  {ssim:.4f}  {distance}{name}"
