"""``restore``: repair photographs."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from sfumato.cli.bar import bar
from sfumato.cli.say import PARTLY, note, say

if TYPE_CHECKING:
    from sfumato.data.photo import Photo
    from sfumato.tasks.restore.options import RestoreOptions
    from sfumato.tasks.restore.run import Restored

Option = typer.Option


class RestoreCommand(TyperCommand):
    """Lets ``--denoise`` and ``--dejpeg`` stand without a value, for auto."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "auto" behind such an option unless a number or auto follows."""
        out: list[str] = []
        for k, word in enumerate(args):
            out.append(word)
            follows = args[k + 1] if k + 1 < len(args) else "--"
            if word in ("--denoise", "--dejpeg") and not _valued(follows):
                out.append("auto")
        return super().parse_args(ctx, out)


def _valued(word: str) -> bool:
    """Whether a word is an option's value: no further option and no picture."""
    if word == "auto" or re.fullmatch(r"-?[\d.]+", word):
        return True
    return not word.startswith("-") and not Path(word).exists() and not Path(word).suffix


def restore(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures and of folders.")],
    output: Annotated[Path, Option(help="FILE for one picture, else FOLDER/ (names are kept).")],
    denoise: Annotated[str | None, Option(metavar="[auto|SIGMA]", help="Deviation of the noise for values of 0 to 255; auto measures it.")] = None,
    dejpeg: Annotated[str | None, Option(metavar="[auto|QUALITY]", help="Remove the marks of JPEG; auto takes the quality from the file.")] = None,
    fill: Annotated[str | None, Option(help="Mask picture: white = make anew; all other pixels stay bit for bit.")] = None,
    fill_box: Annotated[str | None, Option(help="X,Y,W,H to make anew.")] = None,
    fill_color: Annotated[str | None, Option(help="Make anew what was painted in this color, as '#ff0000'.")] = None,
    fill_scratches: Annotated[bool, Option(help="Find thin bright or dark scratches and make them anew.")] = False,
    colorize: Annotated[bool, Option(help="Give a gray picture colors; its luminance stays.")] = False,
    hint: Annotated[list[str] | None, Option(help="X,Y,#rrggbb: a color that --colorize shall meet; may be given again.")] = None,
    enlarge: Annotated[float | None, Option(help="Factor, 1.5 to 8.")] = None,
    best: Annotated[bool, Option(help="Take the mean of eight answers, to the picture turned and mirrored: eight times slower.")] = False,
    clean: Annotated[bool, Option(help="Undo what your own --model was trained on, as pairs of dirty and clean pictures.")] = False,
    engine: Annotated[str, Option(help="trained, or diffusion: any text-to-image model, which may answer in several ways.")] = "trained",
    model: Annotated[str | None, Option(help="Folder written by sfumato train restorer; for diffusion, a model as create takes it.")] = None,
    prompt: Annotated[str | None, Option(help="diffusion: what the picture shows.")] = None,
    samples: Annotated[int | None, Option(help="diffusion: how many answers, and a picture of where they differ.")] = None,
    seed: Annotated[int | None, Option(help="diffusion: same seed, same answer.")] = None,
    steps: Annotated[int | None, Option(help="diffusion: sampler steps.")] = None,
    compare: Annotated[bool, Option(help="Also write before and after side by side.")] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, Option(help="auto, float32, bfloat16 or float16; auto is what the device is good at.")] = "auto",
    overwrite: Annotated[bool, Option(help="Replace pictures that are there; otherwise they are taken as done.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON line per picture on stdout.")] = False,
) -> None:
    """Repair photographs: everything that is asked for at once, and nothing else is touched."""
    from sfumato import image
    from sfumato.errors import OptionError, SfumatoError
    from sfumato.runtime import check_file
    from sfumato.tasks.restore.options import RestoreOptions

    values = {
        "denoise": _number("--denoise", denoise, float), "dejpeg": _number("--dejpeg", dejpeg, int), "fill": fill, "fill_box": _box(fill_box),
        "fill_color": fill_color, "fill_scratches": fill_scratches, "colorize": colorize, "hints": [_hint(h) for h in hint or []], "enlarge": enlarge,
        "clean": clean, "best": best,
    }  # fmt: skip
    options = RestoreOptions.build(values)
    if clean and model is None:
        raise OptionError("--clean goes with --model: a folder written by sfumato train restorer")
    jobs, many = _jobs(pictures, output)
    outputs = _outputs(jobs, samples or 1, compare)
    waiting = [(source, target) for source, target in jobs if overwrite or not all(p.exists() for p in outputs[source])]
    if not waiting and many:
        note(f"nothing to do: all {len(jobs)} pictures are there already; --overwrite makes them anew")
        return
    there = [p for source, _ in waiting or jobs for p in outputs[source] if p.exists()]
    for path in there:
        check_file(path, overwrite=overwrite or many)  # a folder's run that goes on makes its own anew
    work = _engine(engine, options, model, (device, dtype), {"prompt": prompt, "samples": samples, "seed": seed, "steps": steps})
    if fill is not None:
        image.read(Path(fill))  # a mask that cannot be read is no picture to leave out
    failed = []
    with _bar(len(waiting)) as advance:
        for source, target in waiting:
            advance(source.name)
            try:
                done = compare and samples is None and target.exists() and not overwrite  # but for its comparison
                for path, report, notes in _compared(source, target) if done else _restored(source, target, work, advance, compare=compare):
                    _tell(source, path, report, notes, as_json=as_json)
            except SfumatoError as error:
                if not many:
                    raise
                failed.append(str(error) if str(source) in str(error) else f"{source}: {error}")
    for sentence in failed:
        note(f"left out: {sentence}")
    if len(failed) == len(jobs):
        raise OptionError(f"none of the {len(failed)} pictures could be restored")
    if failed:
        raise typer.Exit(PARTLY)


def _jobs(pictures: list[Path], output: Path) -> tuple[list[tuple[Path, Path]], bool]:
    """Each picture and the file that it is restored to; and whether there are, or may be, many."""
    from sfumato.data.photo import SUFFIXES
    from sfumato.errors import OptionError
    from sfumato.runtime import check_folder

    sources = _sources(pictures, output)
    many = len(sources) > 1 or pictures[0].is_dir()
    check_folder(output.parent if output.suffix.lower() in SUFFIXES else output)
    jobs = [(source, _target(source, name, output, many=many)) for source, name in sources.items()]
    for source, target in jobs:
        if target.exists() and target.samefile(source):
            raise OptionError(f"{source} would be replaced by what is made of it; give another --output")
    return jobs, many


def _beside(path: Path, what: str) -> Path:
    """The file of another picture about one: its comparison, or where its answers differ."""
    return path.with_name(f"{path.stem}-{what}.png")


def _outputs(jobs: list[tuple[Path, Path]], samples: int, compare: bool) -> dict[Path, list[Path]]:
    """All files that are made of each picture; no two pictures may share one."""
    from sfumato.errors import OptionError

    out: dict[Path, list[Path]] = {}
    owner: dict[Path, Path] = {}
    for source, target in jobs:
        answers = [target] if samples == 1 else [_numbered(target, k) for k in range(1, samples + 1)]
        out[source] = answers + [_beside(p, "compare") for p in answers if compare] + [_beside(target, "spread")] * (samples > 1)
        for path in out[source]:
            if owner.setdefault(path, source) != source:
                raise OptionError(f"{owner[path]} and {source} would both be written to {path}; restore them into two folders")
    return out


Made = Iterator[tuple[Path, dict[str, Any], list[str]]]  # files written, what was measured on the way, and notes


def _restored(source: Path, target: Path, work: Callable[[Photo], Iterator[Any]], advance: Callable[..., None], *, compare: bool) -> Made:
    """Restore a picture, and write what is made of it."""
    from sfumato.data import photo

    before = photo.read(source)
    answers, spread = _answers(work(before), advance)
    for k, made in enumerate(answers, 1):
        path = target if len(answers) == 1 else _numbered(target, k)
        report, notes = _write(made, path, before)
        if compare:
            photo.write(photo.side_by_side(before, made.photo), _beside(path, "compare"))
        yield path, report, notes
    if spread is not None:
        photo.write(spread, _beside(target, "spread"))


def _compared(source: Path, target: Path) -> Made:
    """Write the comparison of a picture that was restored before."""
    from sfumato.data import photo

    photo.write(photo.side_by_side(photo.read(source), photo.read(target)), _beside(target, "compare"))
    yield target, {}, []


def _write(made: Restored, path: Path, before: Photo) -> tuple[dict[str, Any], list[str]]:
    """Write a restored photo; returns its report and all notes, with no claim about pixels that the format does not keep."""
    from sfumato import image
    from sfumato.data import photo
    from sfumato.metadata import SCHEMA

    report, notes = dict(made.report), [*before.notes]
    if photo.SUFFIXES[path.suffix.lower()] == "JPEG" and report.pop("largest_change_elsewhere", None) is not None:
        notes.append(image.JPEG_TOUCHES)
    return report, [*notes, *photo.write(made.photo, path, json.dumps({"schema": SCHEMA, **report}))]


def _engine(
    engine: str, options: RestoreOptions, model: str | None, place: tuple[str, str], how: dict[str, Any]
) -> Callable[[Photo], Iterator[Any]]:  # fmt: skip
    """What restores a photo as a stream of events."""
    from sfumato.errors import OptionError, unknown
    from sfumato.tasks.restore.networks import RestorationNetworks

    if engine == "trained":
        if any(value is not None for value in how.values()):
            raise OptionError("--prompt, --samples, --seed and --steps go with --engine diffusion")
        from sfumato.tasks.restore.run import walk

        trained = RestorationNetworks(model, *place, repairs=options.clean)
        return lambda before: walk(before, options, trained)
    if engine != "diffusion":
        raise unknown("engine", engine, ("trained", "diffusion"))
    from sfumato.hub.load import load
    from sfumato.tasks.restore.diffusion import DiffusionOptions, diffuse

    given, loaded, finder = DiffusionOptions.build(how), load(model or "icons", *place), RestorationNetworks(None, *place)
    return lambda before: diffuse(before, options, given, loaded, finder.unscratch)


def _answers(events: Iterator[Any], advance: Callable[..., None]) -> tuple[list[Restored], Photo | None]:
    """Follow a restoration to its end: one photo, or several and where they differ."""
    from sfumato.tasks.restore.run import Restored, Window

    for event in events:
        if isinstance(event, Window):
            advance(share=event.done / event.total)
        elif isinstance(event, Restored):
            return [event], None
        else:
            return event.each, event.spread
    raise AssertionError("a restoration ends with its result")


def _numbered(target: Path, k: int) -> Path:
    return target.with_name(f"{target.stem}-{k}{target.suffix}")


def _tell(source: Path, path: Path, report: dict[str, Any], notes: list[str], *, as_json: bool) -> None:
    """A line about a written picture; what was converted on the way goes to stderr, or into the JSON."""
    say(json.dumps({"path": str(path), **report, "notes": notes}) if as_json else _said(path, report))
    for line in [] if as_json else notes:
        note(f"{source}: {line}")


def _said(target: Path, report: dict[str, Any]) -> str:
    """The path, and in brackets what was measured on the way."""
    names = {"sigma": "noise", "quality": "JPEG quality", "made_anew": "made anew"}
    said = [f"{name} {report[key]:.1%}" if key == "made_anew" else f"{name} {report[key]:g}" for key, name in names.items() if key in report]
    return f"{target} ({', '.join(said)})" if said else str(target)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[..., None]]:
    """A bar over all pictures that also moves within a large one; called with a name it goes to the next picture."""
    with bar() as progress:
        begun, current = 0, "restoring"

        def advance(name: str | None = None, share: float = 0.0) -> None:
            nonlocal begun, current
            if name is not None:
                begun, current = begun + 1, name
            progress.update(current, begun - 1 + share, total)

        yield advance


def _number(option: str, text: str | None, kind: type[float]) -> str | float | None:
    """What an option was given: "auto" or a number."""
    from sfumato.errors import OptionError

    try:
        return text if text in (None, "auto") else kind(text)
    except ValueError:
        raise OptionError(f'{option} "{text}" cannot be read; write auto or a{" whole" if kind is int else ""} number') from None


def _box(text: str | None) -> tuple[int, ...] | None:
    from sfumato.errors import OptionError

    if text is None:
        return None
    if not re.fullmatch(r"\d+(,\d+){3}", text):
        raise OptionError(f'--fill-box "{text}" cannot be read; write X,Y,W,H in pixels')
    return tuple(int(n) for n in text.split(","))


def _hint(text: str) -> tuple[int, int, str]:
    from sfumato.errors import OptionError

    match = re.fullmatch(r"(\d+),(\d+),(#[0-9a-fA-F]{6})", text)
    if not match:
        raise OptionError(f'--hint "{text}" cannot be read; write X,Y,#rrggbb')
    return int(match[1]), int(match[2]), match[3]


def _sources(pictures: list[Path], output: Path) -> dict[Path, Path]:
    """The pictures named, those of a folder, and those that a pattern with * or ? finds; each with its name below the output."""
    from glob import glob, has_magic

    from sfumato.data.walk import files
    from sfumato.errors import PictureError
    from sfumato.image import SUFFIXES

    out: dict[Path, Path] = {}
    for path in pictures:
        if path.is_dir():
            made, here = Path(os.path.realpath(output)), Path(os.path.realpath(path))  # what was made before is no source
            inside = (p for p in files(path) if p.suffix.lower() in SUFFIXES)
            out |= {p: p.relative_to(path) for p in inside if made == here or not Path(os.path.realpath(p)).is_relative_to(made)}
        elif path.exists():
            out[path] = Path(path.name)
        elif not (has_magic(str(path)) and (found := sorted(glob(str(path), recursive=True)))):  # noqa: PTH207 (absolute patterns, too)
            raise PictureError(f"{path} does not exist")
        else:
            out |= {Path(p): Path(Path(p).name) for p in found}
    if not out:
        raise PictureError(f"{pictures[0]} holds no pictures")
    return out


def _target(source: Path, name: Path, output: Path, *, many: bool) -> Path:
    """The file that a picture is restored to."""
    from sfumato.data.photo import SUFFIXES
    from sfumato.errors import OptionError
    from sfumato.image import ENDINGS

    if output.suffix.lower() in SUFFIXES:
        if many:
            raise OptionError(f"{output} is one file, but several pictures are given; give a folder")
        return output
    if output.suffix.lower() in ENDINGS:
        raise OptionError(f"{output}: a picture's name ends in one of {', '.join(sorted(SUFFIXES))}")
    return output / (name if source.suffix.lower() in SUFFIXES else name.with_suffix(".png"))
