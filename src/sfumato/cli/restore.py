"""``restore``: repair photographs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option


def restore(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[Path, Option(help="FILE for one picture, else FOLDER/ (names are kept).")],
    model: Annotated[Path, Option(help="Folder written by sfumato train restorer.")],
    denoise: Annotated[str | None, Option(help="auto, or the deviation of the noise for values of 0 to 255.")] = None,
    fill: Annotated[str | None, Option(help="Mask picture: white = make anew; all other pixels stay bit for bit.")] = None,
    fill_box: Annotated[str | None, Option(help="X,Y,W,H to make anew.")] = None,
    colorize: Annotated[bool, Option(help="Give a grey picture colors; its luminance stays.")] = False,
    enlarge: Annotated[float | None, Option(help="Factor, 1.5 to 8.")] = None,
    compare: Annotated[bool, Option(help="Also write before and after side by side.")] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, Option(help="Replace pictures that are there; otherwise they are taken as done.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON line per picture on stdout.")] = False,
) -> None:
    """Repair photographs: everything that is asked for at once, and nothing else is touched."""
    from sfumato.errors import OptionError, PictureError
    from sfumato.tasks import photo
    from sfumato.tasks import restore as work

    values = {"denoise": _number(denoise), "fill": fill, "fill_box": _box(fill_box), "colorize": colorize, "enlarge": enlarge}
    options = work.RestoreOptions.build(values)
    sources = _sources(pictures)
    jobs = [(source, _target(source, output, many=len(sources) > 1 or pictures[0].is_dir())) for source in sources]
    waiting = [(source, target) for source, target in jobs if overwrite or not target.exists()]
    if not waiting:
        raise OptionError(f"{jobs[0][1]} is there already; give --overwrite to replace it")
    repairer = work.Repairer(model, device)
    failed = []
    for source, target in _progress(waiting):
        try:
            before = photo.read(source)
        except PictureError as error:
            if len(waiting) == 1:
                raise
            failed.append(str(error))
            continue
        made = work.restore(before, options, repairer)
        notes = [*before.notes, *photo.write(made.photo, target, json.dumps(made.report))]
        if compare:
            photo.write(photo.side_by_side(before, made.photo), target.with_name(f"{target.stem}-compare.png"))
        typer.echo(json.dumps({"path": str(target), **made.report, "notes": notes}) if as_json else str(target))
        for note in [] if as_json else notes:
            typer.echo(f"sfumato: {source}: {note}", err=True)
    for sentence in failed:
        typer.echo(f"sfumato: left out: {sentence}", err=True)


def _progress(waiting: list[tuple[Path, Path]]) -> Any:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(waiting, "restoring", console=console, transient=True, disable=not console.is_terminal)


def _number(text: str | None) -> str | float | None:
    """What --denoise was given: "auto" or a number."""
    from sfumato.errors import OptionError

    try:
        return text if text in (None, "auto") else float(text)
    except ValueError:
        raise OptionError(f'--denoise "{text}" cannot be read; write auto or a number') from None


def _box(text: str | None) -> tuple[int, ...] | None:
    from sfumato.errors import OptionError

    if text is None:
        return None
    if not re.fullmatch(r"\d+(,\d+){3}", text):
        raise OptionError(f'--fill-box "{text}" cannot be read; write X,Y,W,H in pixels')
    return tuple(int(n) for n in text.split(","))


def _sources(pictures: list[Path]) -> list[Path]:
    from sfumato.errors import PictureError
    from sfumato.image import SUFFIXES

    out = []
    for path in pictures:
        if not path.exists():
            raise PictureError(f"{path} does not exist")
        out += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not out:
        raise PictureError(f"{pictures[0]} holds no pictures")
    return out


def _target(source: Path, output: Path, *, many: bool) -> Path:
    from sfumato.errors import OptionError
    from sfumato.tasks.photo import SUFFIXES

    if output.suffix.lower() in SUFFIXES:
        if many:
            raise OptionError(f"{output} is one file, but several pictures are given; give a folder")
        return output
    name = source.name if source.suffix.lower() in SUFFIXES else f"{source.stem}.png"
    return output / name
