"""Our own API: a request becomes a job, which can be followed and cancelled."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sfumato.errors import OptionError, unknown
from sfumato.hub.catalog import bundled, model_path, restorers
from sfumato.hub.describe import describe
from sfumato.tasks.names import STATES, Names
from sfumato.tasks.nearest import training_names
from sfumato.tasks.search.space import index_settings
from sfumato.web.bodies import (
    Body,
    CreateBody,
    LessonBody,
    PointsBody,
    ProbeBody,
    ReduceBody,
    RestoreBody,
    SearchBody,
    TraceBody,
)
from sfumato.web.queue import Queue
from sfumato.web.requests import checked
from sfumato.web.running import Update
from sfumato.web.schema import EVENTS, NO_MODEL, NOT_FOUND, PAGE, PICTURE, STARTED, JobRecord
from sfumato.web.store import ENDED, Job, new_id

LEFT = 1.0  # seconds between checks whether a waiting client has left
WORD = 200  # largest number of letters of a text for which names are searched

router = APIRouter()


class Failed(Exception):
    """A job failed for a reason other than its request."""


class Counts(Collector):
    """The numbers of jobs, for Prometheus."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def collect(self) -> Iterator[Metric]:
        """Yield the number of jobs per status, and the average duration of a job."""
        jobs = GaugeMetricFamily("sfumato_jobs", "Jobs that are kept, by status", labels=["status"])
        for status in ("queued", "generating", "completed", "failed", "cancelled"):
            jobs.add_metric([status], self.queue.store.count(status))
        yield jobs
        yield GaugeMetricFamily(
            "sfumato_job_seconds", "Seconds of a job, moving average", value=self.queue.average
        )


def queue_of(request: Request) -> Queue:
    """The queue of the server."""
    queue: Queue = request.app.state.queue
    return queue


async def submit(request: Request, body: Body) -> Job:
    """Check a request, store its pictures, and queue it as a job.

    Raises
    ------
    Full, OptionError, PictureError
    """
    queue, identity = queue_of(request), new_id()
    queue.check()  # before its pictures are read
    folder = queue.store.files(identity)
    try:
        asked = await asyncio.to_thread(checked, body, folder, request.app.state.offered)
        return queue.add(body.kind, asked, identity)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


async def finished(request: Request, job: Job, *, part: bool = False) -> dict[str, Any]:
    """Wait for a job's end and return its result.

    If the job is cancelled during the wait, this raises an exception. With `part`, it returns the
    pictures that were finished before.

    Raises
    ------
    OptionError
        If the request cannot be fulfilled.
    HTTPException
        If the job was cancelled meanwhile, or the server stops.
    Failed
        If the job failed for another reason.
    """
    queue = queue_of(request)
    ended = await _result(request, job)
    if ended.status == "completed" and ended.result is not None:
        return ended.result
    if ended.status == "cancelled" and part:
        return ended.result or {"pictures": []}
    if ended.status == "cancelled":
        raise HTTPException(409, "the job was cancelled")
    if ended.status not in ENDED:
        raise HTTPException(503, "the server stops; the job continues when it starts again")
    if job.id in queue.wrong and ended.error:
        raise OptionError(ended.error)
    raise Failed(ended.error or f"the job was {ended.status}")


async def _result(request: Request, job: Job) -> Job:
    """Wait for a job's end; if the client leaves meanwhile, cancel the job."""
    queue = queue_of(request)
    waiting = asyncio.create_task(queue.result(job.id))
    while not (await asyncio.wait({waiting}, timeout=LEFT))[0]:
        if await request.is_disconnected():
            queue.cancel(job.id)
    return waiting.result()


def record(queue: Queue, job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    base = f"/v1/jobs/{job.id}"
    out: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "created": job.created,
        "started": job.started,
        "completed": job.completed,
        "queue_position": queue.position(job),
        "progress": queue.progress(job),
        "poll_url": base,
        "events_url": f"{base}/events",
        "error": job.error,
        "result": None,
    }
    if job.result is not None:
        out["result"] = with_addresses(job.id, job.result)
    return out


def with_addresses(identity: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result with URLs of the pictures in place of file names."""
    pictures = []
    for number, picture in enumerate(result.get("pictures", [])):
        about = {k: v for k, v in picture.items() if k != "file"}
        place = {"url": f"/v1/jobs/{identity}/pictures/{number}"} if picture["file"] else {}
        pictures.append({**place, **about})
    return {**result, "pictures": pictures}


async def _respond(request: Request, body: Body, wait: bool) -> Response:
    queue, job = queue_of(request), await submit(request, body)
    if wait:
        await finished(request, job)
        done = queue.store.get(job.id)
        return JSONResponse(record(queue, done or job))
    return JSONResponse(record(queue, job), 202)


# path -> body of the request, and what the job does
JOBS: dict[str, tuple[type[Body], str]] = {
    "create": (CreateBody, "Generate pictures from texts."),
    "restore": (RestoreBody, "Repair a photo."),
    "traces": (TraceBody, "Generate pictures, and a page that shows every sampler step."),
    "probes": (
        ProbeBody,
        "Try a model on your picture: encode, change and decode it; add noise and denoise it.",
    ),
    "reduce": (
        ReduceBody,
        "Compare PCA with autoencoders on a file of data, and write a report page.",
    ),
    "search": (SearchBody, "Find the items of an index nearest to words or to a picture."),
    "points": (PointsBody, "Learn a distribution of points on a plane, and sample new points."),
    "lessons": (LessonBody, "Run one of the experiments on the page Learn."),
}


def _add_route(path: str, kind: type[Body], about: str) -> None:
    """Add a route that returns the queued job, or with ``wait`` the finished job."""

    async def respond(request: Request, body: Any, wait: bool = False) -> Response:
        return await _respond(request, body, wait)

    respond.__annotations__["body"] = kind
    about += " Returns the queued job, or with `wait` the finished job."
    route = router.post(f"/{path}", responses=STARTED, name=kind.kind, description=about)
    route(respond)


for _path, (_body, _about) in JOBS.items():
    _add_route(_path, _body, _about)


@router.get("/loras")
async def loras(request: Request) -> dict[str, Any]:
    """The LoRAs that the server offers."""
    return {"object": "list", "data": [{"id": name} for name in request.app.state.offered.loras]}


@router.get("/indexes")
async def indexes(request: Request) -> dict[str, Any]:
    """The indexes that the server offers, with the kind and the space of each."""
    found = []
    for name, path in request.app.state.offered.indexes.items():
        settings = index_settings(Path(path))
        found.append({"id": name, "kind": settings.kind, "space": settings.space})
    return {"object": "list", "data": found}


@router.get("/jobs/{identity}/page", response_class=FileResponse, responses=PAGE | NOT_FOUND)
async def page(request: Request, identity: str) -> FileResponse:
    """The page of an explanation or a comparison. Its scripts have no access to the server."""
    path = queue_of(request).store.files(_job(request, identity).id) / "page.html"
    if not path.exists():
        raise HTTPException(404, "the job has no page")
    headers = {"Content-Security-Policy": "sandbox allow-scripts"}
    return FileResponse(path, media_type="text/html", headers=headers)


def _job(request: Request, identity: str) -> Job:
    job = queue_of(request).store.get(identity)
    if job is None:
        raise HTTPException(404, "the job does not exist; results are kept for a limited time")
    return job


@router.get("/jobs")
async def listed(
    request: Request,
    count: int = 50,
    kind: Annotated[list[str], Query()] = [],  # noqa: B006 (FastAPI copies it)
    status: Annotated[list[str], Query()] = [],  # noqa: B006
) -> dict[str, Any]:
    """The last jobs, newest first; `kind` and `status`, which may be repeated, select some."""
    queue = queue_of(request)
    newest = queue.store.newest(max(1, min(count, 500)), kind, status)
    return {"jobs": [record(queue, job) for job in newest]}


@router.get("/jobs/{identity}", response_model=JobRecord, responses=NOT_FOUND)
async def one(request: Request, identity: str) -> dict[str, Any]:
    """Status, progress and result of a job."""
    return record(queue_of(request), _job(request, identity))


@router.post("/jobs/{identity}/cancel", response_model=JobRecord, responses=NOT_FOUND)
async def cancel(request: Request, identity: str) -> dict[str, Any]:
    """Cancel a job; it stops after its current step, at most ten seconds later."""
    job = _job(request, identity)
    if not queue_of(request).cancel(identity):
        raise HTTPException(409, f"the job has already ended: {job.status}")
    return record(queue_of(request), _job(request, identity))


@router.get(
    "/jobs/{identity}/events", response_class=StreamingResponse, responses=EVENTS | NOT_FOUND
)
async def events(request: Request, identity: str) -> StreamingResponse:
    """Follow a job through server-sent events: progress, preview, picture, and its end."""
    _job(request, identity)
    queue = queue_of(request)

    async def lines() -> AsyncIterator[str]:
        async for update in queue.watch(identity):
            if update.kind == "stopping":  # the stream just ends: the client can follow it again
                return
            data = update.data
            if update.kind == "completed":
                data = with_addresses(identity, data)
            elif update.kind == "picture":
                place = f"/v1/jobs/{identity}/pictures/{data['number']}"
                about = {k: v for k, v in data.items() if k not in ("file", "number")}
                data = {**({"url": place} if data["file"] else {}), **about}
            yield sse(Update(update.kind, data))

    return StreamingResponse(lines(), media_type="text/event-stream")


def sse(update: Update) -> str:
    """One server-sent event."""
    return f"event: {update.kind}\ndata: {json.dumps(update.data)}\n\n"


@router.get(
    "/jobs/{identity}/pictures/{number}",
    response_class=FileResponse,
    responses=PICTURE | NOT_FOUND,
)
async def picture(request: Request, identity: str, number: int) -> FileResponse:
    """A picture of a job, as PNG with its settings inside."""
    job = _job(request, identity)
    file = f"{number}.png"  # a job that runs or was cancelled has no result, but perhaps pictures
    if job.result is not None:
        held = job.result["pictures"]
        file = held[number]["file"] if 0 <= number < len(held) else ""
    path = queue_of(request).store.files(identity) / file
    if not path.is_file():
        raise HTTPException(404, "the job has no picture with this number")
    return FileResponse(path, media_type="image/png")


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The models that the server offers, with their sizes and styles, and the restorers."""
    found = [described(name, path) for name, path in request.app.state.offered.models.items()]
    return {"object": "list", "data": [*found, *(described(name, name) for name in restorers())]}


@router.get("/models/{name}", responses=NO_MODEL)
async def model(request: Request, name: str) -> dict[str, Any]:
    """A model or restorer of this server, by name."""
    offered = {**{one: one for one in restorers()}, **request.app.state.offered.models}
    if name not in offered:
        raise HTTPException(404, "the server has no such model")
    return described(name, offered[name])


@router.get("/names")
async def names(
    request: Request,
    start: str,
    model: str = "icons",
    count: Annotated[int, Query(ge=1, le=50)] = 6,
    near: bool = False,
) -> dict[str, Any]:
    """Names of a model's training pictures that complete a word, the most frequent first.

    With `near`, also names that are close to the word in meaning, best first.
    """
    offered = request.app.state.offered.models
    if model not in offered:
        raise unknown("model", model, offered)
    known = await asyncio.to_thread(_frequent, offered[model])
    word = start.strip().lower()
    first = [name for name in known if name.startswith(word)]
    inner = [name for name in known if f" {word}" in name]
    found = {"names": [*first, *inner][:count] if word else []}
    if near:
        close = await asyncio.to_thread(_near, offered[model], word[:WORD], count)
        found["near"] = close
    return found


@functools.lru_cache(maxsize=8)
def _frequent(path: str) -> tuple[str, ...]:
    rows = training_names(model_path(path))
    return tuple(name for name, _ in Counter(row["name"] for row in rows).most_common())


def _near(path: str, word: str, count: int) -> list[str]:
    if not (model_path(path) / STATES).exists():
        return []
    return [name for name, _ in _names(path).near(word, count)]


@functools.lru_cache(maxsize=2)
def _names(path: str) -> Names:
    return Names.load(model_path(path))


def described(name: str, path: str) -> dict[str, Any]:
    """Describe a model in OpenAI's format; a bundled model has further fields."""
    # the files of other models may be large, so they are not described; they have no styles here
    about = describe(path) if path in (*bundled(), *restorers()) else {"styles": []}
    keys = ("description", "size", "styles", "fast", "license", "megabytes")
    known = {key: about[key] for key in keys if key in about}
    return {"id": name, "object": "model", "created": 0, "owned_by": "sfumato", **known}
