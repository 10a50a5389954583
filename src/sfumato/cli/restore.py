"""``restore``: repair photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.bar import bar
from sfumato.cli.command import command_class, data_path, given, takes
from sfumato.cli.say import PARTLY, note, say
from sfumato.tasks.restore.options import RestoreOptions

if TYPE_CHECKING:
    from sfumato.tasks.restore.batch import Failed, Written

Argument, Option = typer.Argument, typer.Option
RestoreCommand = command_class(RestoreOptions)

Pictures = Annotated[
    list[Path],
    # an unreadable file is listed, and the others are restored
    Argument(parser=data_path, help="Pictures, or folders of pictures; subfolders are included."),
]
Output = Annotated[
    Path, Option(help="FILE for one picture, otherwise FOLDER/ (pictures keep their names).")
]
Compare = Annotated[
    bool, Option("--compare", help="Also write each picture before and after, side by side.")
]
SaveMask = Annotated[
    bool,
    Option(
        "--save-mask", help="Also write a mask of the inpainted pixels, to edit and pass to --fill."
    ),
]
Overwrite = Annotated[
    bool,
    Option("--overwrite", help="Replace existing pictures; otherwise they count as finished."),
]
AsJson = Annotated[bool, Option("--json", help="One JSON line per picture on stdout.")]


@takes(RestoreOptions)
def restore(
    pictures: Pictures,
    output: Output,
    compare: Compare = False,
    save_mask: SaveMask = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **values: Any,
) -> None:
    """Repair photographs: apply all requested repairs in one run, and no others."""
    from sfumato.errors import OptionError
    from sfumato.tasks.restore.batch import Failed, Written, plan, run

    options = RestoreOptions.build(given(values))
    batch = plan(pictures, output, options, compare=compare, mask=save_mask, overwrite=overwrite)
    if not batch.waiting:
        note(
            f"nothing to do: all {len(batch.jobs)} pictures exist already; --overwrite restores "
            "them again"
        )
        return
    failed = []
    with bar() as progress:
        for event in run(batch, options):
            if isinstance(event, Written):
                _tell(event, as_json=as_json)
            elif isinstance(event, Failed):
                failed.append(event)
            else:
                progress.update(event.what, event.done, event.total)
    for one in failed:
        _tell_failed(one)
    if len(failed) == len(batch.jobs):
        raise OptionError(f"none of the {len(failed)} pictures could be restored")
    if failed:
        raise typer.Exit(PARTLY)


def _tell(written: Written, *, as_json: bool) -> None:
    """Print a line about a written picture; notes on the picture go to stderr, or into the JSON."""
    if as_json:
        say(json.dumps({"path": str(written.path), **written.report, "notes": written.notes}))
        return
    say(_said(written))
    for line in written.notes:
        note(f"{written.source}: {line}")


def _tell_failed(failed: Failed) -> None:
    """Print a line about a picture that was left out; omit the file name if the reason has it."""
    named = str(failed.source) in failed.reason
    note(f"left out: {'' if named else f'{failed.source}: '}{failed.reason}")


def _said(written: Written) -> str:
    """One line of output: the path, and the measurements in parentheses."""
    measured = []
    noise = "film grain" if written.report.get("grain") else "noise"
    for key, name in {"sigma": noise, "quality": "JPEG quality"}.items():
        if key in written.report:
            measured.append(f"{name} {written.report[key]:g}")
    if "made_anew" in written.report:
        measured.append(f"inpainted {written.report['made_anew']:.1%}")
    return f"{written.path} ({', '.join(measured)})" if measured else str(written.path)
