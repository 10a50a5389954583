"""``evaluate restore``: standard figures by standard conventions."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.say import PARTLY, note, say

app = typer.Typer(no_args_is_help=True)
Option = typer.Option


@app.callback()
def root() -> None:
    """The field's standard figures, by the field's exact conventions."""


@app.command()
def restore(
    data: Annotated[Path, typer.Argument(help="Folder of clean pictures, .parquet or .tar.")],
    denoise: Annotated[float | None, Option(help="Deviation of Gaussian noise for values of 0 to 255.")] = None,
    enlarge: Annotated[float | None, Option(help="Factor that pictures are shrunk by, 1.5 to 8.")] = None,
    dejpeg: Annotated[int | None, Option(help="Quality of the JPEG that pictures are written as, 1 to 100.")] = None,
    fill: Annotated[str | None, Option(help="What is hidden: text, scratches, boxes or pixels (80 %).")] = None,
    colorize: Annotated[bool, Option(help="Take the color out.")] = False,
    gray: Annotated[bool, Option(help="Take the pictures as gray.")] = False,
    method: Annotated[str, Option(help="trained; best (the mean of eight answers); or input (the damage stays), bicubic.")] = "trained",
    model: Annotated[Path | None, Option(help="A restorer of your own: a folder written by sfumato train restorer.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, Option(help="auto, float32, bfloat16 or float16; auto is what the device is good at.")] = "auto",
    as_json: Annotated[bool, Option("--json", help="One JSON line per picture.")] = False,
) -> None:
    """Damage pictures, restore them, and print PSNR and SSIM; LPIPS, too, if it is installed with AlexNet's weights."""
    from sfumato.errors import OptionError
    from sfumato.tasks.evaluate.restoration import restore as work
    from sfumato.tasks.restore.networks import RestorationNetworks

    asked = {"denoise": denoise, "enlarge": enlarge, "dejpeg": dejpeg, "fill": fill, "colorize": colorize or None}
    given = [(task, amount) for task, amount in asked.items() if amount is not None]
    if len(given) != 1:
        raise OptionError("give one of --denoise SIGMA, --enlarge FACTOR, --dejpeg QUALITY, --fill SHAPE and --colorize")
    task, amount = given[0]

    def line(values: tuple[float, float, float | None], name: str) -> str:
        return f"{values[0]:6.2f} dB  {values[1]:.4f}  " + ("" if values[2] is None else f"LPIPS {values[2]:.4f}  ") + name

    scores, skipped = [], list[str]()
    for score in work(data, task, amount, gray=gray, method=method, engine=RestorationNetworks(model, device, dtype), skipped=skipped):  # type: ignore[arg-type]
        scores.append(score)
        found = {k: None if v == math.inf else v for k, v in score.__dict__.items() if v is not None}  # JSON knows no infinity
        say(json.dumps(found) if as_json else line((score.psnr, score.ssim, score.lpips), score.name))
    for sentence in skipped:
        note(f"left out: {sentence}")
    if not scores:
        raise OptionError(f"none of the pictures in {data} could be measured")
    far = [s.lpips for s in scores if s.lpips is not None]
    means = statistics.fmean(s.psnr for s in scores), statistics.fmean(s.ssim for s in scores), statistics.fmean(far) if far else None
    say(line(means, f"mean of {len(scores)}"), err=as_json)
    if skipped:
        raise typer.Exit(PARTLY)
