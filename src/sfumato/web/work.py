"""Run jobs in a worker: a job runs a command, and writes the resulting pictures to a folder.

A job is a generator of progress, previews and pictures. It iterates over the generator of its
command, so stopping the job stops the command within one step.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from sfumato import image
from sfumato.config import Options
from sfumato.data import photo as photos
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.hub.lora import lora_scale
from sfumato.tasks import lessons, points
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import Plan, check, load_model, make_plan
from sfumato.tasks.create.run import Made, seeded_rows, stream_rows
from sfumato.tasks.explain.experiments import Explained, steps
from sfumato.tasks.explain.probe import ProbeOptions, probe
from sfumato.tasks.lessons import LessonOptions
from sfumato.tasks.points import PointsOptions
from sfumato.tasks.reduce import compare as reducing
from sfumato.tasks.reduce import report
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.engines import engine
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search import query
from sfumato.types import Progress
from sfumato.web.bodies import LARGEST, MOST, PICTURES, WEIGHTS
from sfumato.web.requests import offered_name

POINTS = 8  # largest number of point sets whose networks are cached
EVERY = 0.1  # smallest number of seconds between previews
APART = frozenset({"seed", "count", "prompt", "previews"})  # options that may differ within a batch


@dataclass(frozen=True)
class Preview:
    """A preview of an unfinished picture, as PNG in base64."""

    job: int
    png: str


@dataclass(frozen=True)
class Finished:
    """A result of a job: its file in the job's folder ("" if there is none), and data about it."""

    job: int
    file: str
    about: dict[str, Any]


@dataclass(frozen=True)
class JobProgress:
    """Progress of one job of a batch."""

    job: int
    progress: Progress


Event = JobProgress | Preview | Finished
Record = TypeVar("Record", bound=Options)


@dataclass(frozen=True)
class Work:
    """A job as a worker sees it: its command, the request and the folder of its results."""

    id: str
    kind: str
    request: dict[str, Any]
    folder: Path


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the server's paths; a LoRA is named by the last part of its path."""
    shown = {name: value for name, value in settings.items() if name not in PICTURES}
    for asked in settings.get("loras", ()):
        path, scale = lora_scale(asked)
        name = f"{offered_name(path)}:{scale:g}"
        shown["loras"] = [name if one == asked else one for one in shown["loras"]]
        parts = shown.get("parts", {})
        shown["parts"] = {k.replace(f"lora {asked}", f"lora {name}"): v for k, v in parts.items()}
    return shown


class Models:
    """A cache of models; a new one replaces the least recently used one."""

    def __init__(self, most: int = 2) -> None:
        self.most, self.held = most, dict[tuple[object, ...], Model]()
        self.points: dict[object, object] = {}  # networks trained on points

    def get(self, options: CreateOptions) -> Model:
        """Return the model that the options name; load it if it is not in the cache."""
        key = options.model, options.device, options.dtype, options.loras, options.fast
        model = self.held.pop(key, None) or load_model(options)
        self.held[key] = model
        while len(self.held) > self.most:
            self.held.pop(next(iter(self.held)))
        return model


def command_options(record: type[Record], request: Mapping[str, Any]) -> Record:
    """The options of a command in a request, which has other fields, too."""
    return record.build({k: v for k, v in request.items() if k in record.model_fields})


def compatible(a: Work, b: Work) -> bool:
    """Whether two jobs can run in one batch.

    Both must be `create` jobs without a start picture, and may differ only in seed, count, prompts
    and previews (`APART`).
    """
    if a.kind != "create" or b.kind != "create" or a.request.get("source"):
        return False
    return all(
        a.request.get(name) == b.request.get(name) for name in {*a.request, *b.request} - APART
    )


def perform(works: Sequence[Work], models: Models) -> Iterator[Event]:
    """Run one job of any command, or several compatible jobs of the command create."""
    match works[0].kind:
        case "create":
            yield from _create(works, models)
        case "trace":
            yield from _trace(works[0], models)
        case "restore":
            yield from _restore(works[0])
        case "probe":
            yield from _probe(works[0], models)
        case "reduce":
            yield from _reduce(works[0])
        case "search":
            yield from _search(works[0])
        case "points":
            yield from _points(works[0], models)
        case "lesson":
            yield from _lesson(works[0])
        case other:
            raise ValueError(f"the worker does not know the command {other}")


def check_limits(plan: Plan, pictures: int) -> None:
    """Refuse more work than the server does, also if a model's defaults ask for it."""
    if pictures * len(plan.tries) > MOST:
        raise OptionError(
            f"a request may generate up to {MOST} pictures, including all candidates: the model "
            f"generates {len(plan.tries)} for each"
        )
    if max(plan.size) > LARGEST:
        raise OptionError(
            f"the server generates pictures of up to {LARGEST}x{LARGEST} pixels; give a size"
        )


def _create(works: Sequence[Work], models: Models) -> Iterator[Event]:
    rows: list[tuple[str, int]] = []
    owner: list[int] = []
    for number, work in enumerate(works):
        request = work.request
        wanted = seeded_rows(request["prompt"], request["seed"], request.get("count", 1))
        rows += wanted
        owner += [number] * len(wanted)
    options = command_options(CreateOptions, works[0].request)
    plan = make_plan(options, models.get(options))
    check([text for text, _ in rows], plan)
    check_limits(plan, max(owner.count(number) for number in range(len(works))))
    for work in works:
        work.folder.mkdir(parents=True, exist_ok=True)
    # no previews of several candidates: it is not known yet which one is kept
    shown = [work.request.get("previews", 0) * (len(plan.tries) == 1) for work in works]
    made, last = 0, 0.0
    counts = [0] * len(works)
    for event in stream_rows(plan, rows):
        if isinstance(event, Made):
            number = owner[made]
            file = f"{counts[number]}.png"
            settings = public(event.settings)
            replace(event, settings=settings).save(works[number].folder / file)
            made += 1
            counts[number] += 1
            about = {"seed": event.seed, "prompt": event.prompt, "settings": settings}
            about |= {"cut": event.cut, "unknown": event.unknown, "near": event.near}
            yield Finished(number, file, about)
            continue
        now = event if isinstance(event, Progress) else event.progress
        for number in range(len(works)):
            yield JobProgress(number, now)
        if isinstance(event, Progress):
            continue
        if any(shown) and time.monotonic() - last >= EVERY and event.step.index < event.steps - 1:
            last = time.monotonic()
            for number in (n for n, wanted in enumerate(shown) if wanted and n in owner[made:]):
                place = owner[made:].index(number)
                if place < len(event.step.denoised):
                    yield Preview(number, _preview(plan, event.step.denoised[place]))


@torch.inference_mode()
def _preview(plan: Plan, latents: torch.Tensor) -> str:
    """The denoised estimate of a step as a small PNG in base64."""
    pixels = plan.model.space.decode(latents[None])
    picture = image.to_pictures(pixels.float())[0]
    picture.thumbnail((256, 256))
    return encoded(picture)


def encoded(picture: Image.Image) -> str:
    """A picture as PNG in base64."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _trace(work: Work, models: Models) -> Iterator[Event]:
    options, changes = command_options(CreateOptions, work.request), work.request.get("changes", ())
    work.folder.mkdir(parents=True, exist_ok=True)
    for event in steps(work.request["prompt"], options, models.get(options), changes=changes):
        if isinstance(event, Explained):
            event.write(work.folder / "page.html")
            for k, run in enumerate(event.runs):
                made = replace(run.trace.made, settings=public(run.trace.made.settings))
                made.save(work.folder / f"{k}.png")
                about = {"seed": made.seed, "prompt": made.prompt, "settings": made.settings}
                yield Finished(0, f"{k}.png", about)
        elif isinstance(event, Progress):
            yield JobProgress(0, event)
        else:
            yield JobProgress(0, event.progress)


def _restore(work: Work) -> Iterator[Event]:
    options = command_options(RestoreOptions, work.request)
    before = photos.read(Path(work.request["image"]))
    work.folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for event in engine(options)(before):
        if isinstance(event, Progress):
            yield JobProgress(0, event)
            continue
        file = f"{count}.png"
        notes = [*before.notes, *event.notes, *photos.write(event.photo, work.folder / file)]
        count += 1
        yield Finished(0, file, {"report": public(event.report), "notes": notes})


def _probe(work: Work, models: Models) -> Iterator[Event]:
    """Try a model on a picture; the result holds each picture of the probe."""
    picture = image.read(Path(work.request["image"]))
    options = command_options(ProbeOptions, work.request)
    model = None if options.damage else models.get(CreateOptions(model=work.request["model"]))
    work.folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for event in probe(picture, options, model):
        if isinstance(event, Progress):
            yield JobProgress(0, event)
            continue
        file = f"{count}.png"
        event.picture.save(work.folder / file)
        count += 1
        yield Finished(0, file, {"what": event.what, **event.about})


def _reduce(work: Work) -> Iterator[Event]:
    """Compare PCA with autoencoders; the report is the job's page, its figures are the result."""
    report.check_plotting()
    options = command_options(ReduceOptions, work.request)
    found = reducing.start(reducing.gather(Path(work.request["data"]), options), options)
    columns = found.train.shape[1]
    if 2 * columns * (options.layers or reducing.default_layers(columns))[0] > WEIGHTS:
        raise OptionError(
            f"with {columns:,} values in a row, the autoencoder would have more than the "
            f"{WEIGHTS // 10**6} million weights that the server trains; use fewer values, or "
            "smaller layers"
        )
    for event in reducing.compare(found):
        if isinstance(event, Progress):
            yield JobProgress(0, event)
    page = report.write(found, work.folder, work.request["name"])
    page.rename(work.folder / "page.html")
    figures = sorted(path.name for path in work.folder.glob("*.png"))
    said = {"verdict": found.verdict(), "report": report.record(found, work.request["name"])}
    for number, name in enumerate(figures):
        yield Finished(0, name, {"name": name.removesuffix(".png"), **(said if not number else {})})


def _search(work: Work) -> Iterator[Event]:
    """Search an index; each hit is a shrunk picture or a text."""
    request, folder = work.request, Path(work.request["index"])
    yield JobProgress(0, Progress("searching", 0, 1))
    like = request.get("image")
    words = request["query"] if like is None else None
    hits = query.search(folder, words, request["k"], request.get("where"), like=like)
    work.folder.mkdir(parents=True, exist_ok=True)
    shown = query.found_pictures(folder, hits)
    for number, hit in enumerate(hits):
        picture, file = shown.get(hit.name), ""
        if picture is not None:
            file = f"{number}.png"
            picture.save(work.folder / file)
        yield Finished(0, file, {**hit.__dict__, "name": Path(hit.name).name})


def _points(work: Work, models: Models) -> Iterator[Event]:
    """Learn points and sample new points; the result consists of numbers."""
    if len(models.points) > POINTS:
        models.points.clear()
    for event in points.sample(PointsOptions.build(work.request), models.points):
        if isinstance(event, Progress):
            yield JobProgress(0, event)
            continue
        about = {name: _rounded(getattr(event, name)) for name in ("paths", "grid", "guesses")}
        about |= {"loss": round(event.loss, 4), "sigmas": [round(s, 4) for s in event.sigmas]}
        yield Finished(0, "", about)


def _lesson(work: Work) -> Iterator[Event]:
    """Run an experiment; its numbers are the result, and intermediate pictures are previews."""
    for event in lessons.lesson(LessonOptions.build(work.request)):
        if isinstance(event, Progress):
            yield JobProgress(0, event)
        elif not event.final and event.picture is not None:
            yield Preview(0, encoded(event.picture))
        else:
            file = ""
            if event.picture is not None:
                file = "0.png"
                work.folder.mkdir(parents=True, exist_ok=True)
                event.picture.save(work.folder / file)
            yield Finished(0, file, event.about)


def _rounded(values: torch.Tensor) -> Any:
    """Nested lists, rounded to four significant digits of the largest value."""
    scale = float(values.abs().max().clamp_min(1e-9))
    digits = max(0, 3 - math.floor(math.log10(scale)))
    return [
        [[round(x, digits), round(y, digits)] for x, y in part]
        for part in values.reshape(-1, *values.shape[-2:]).tolist()
    ]
