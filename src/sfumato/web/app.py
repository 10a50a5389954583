"""The HTTP server.

It offers jobs (create, explain, restore, reduce, search, points and lessons), the studio (a web
page), and the APIs that existing clients use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from sfumato import __version__
from sfumato.config import reason
from sfumato.errors import SfumatoError
from sfumato.hub.catalog import bundled
from sfumato.web import a1111, jobs, openai
from sfumato.web.guard import Guard
from sfumato.web.messages import for_clients
from sfumato.web.queue import Full, Queue
from sfumato.web.requests import Offered, named, offered_models
from sfumato.web.schema import FAILURES
from sfumato.web.store import Store

# the studio's page may load its own files, and pictures that it holds in memory
POLICY = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"
WEB = Path(str(resources.files("sfumato.web")))
# the documentation site: part of a wheel; a checkout has it after `make docs`
DOCS = WEB / "docs" if (WEB / "docs").is_dir() else WEB.parents[2] / "build" / "docs"
# the wrong field at the beginning of a message, such as "steps=0 is not supported"
FIELD = re.compile(r"([a-z_]+)[\w.]*(?==|: | is )")
VALUE = re.compile(r"([a-z_0-9]+)[\w.]*=")  # the same, for messages that begin with other words
# pydantic's types of errors for a body that is no JSON object
NO_OBJECT = ("missing", "model_type", "model_attributes_type", "dict_type")
DOCS_LINK = '<a href="/docs/">Documentation</a>'


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes
    ----------
    folder : Path
        Folder of the queue and the pictures.
    host : str
    token : str, optional
        Secret that requests must carry as ``Authorization: Bearer TOKEN``.
    models : list of str
        Folders and files of models that are offered besides the bundled models.
    indexes : list of str
        Folders of indexes that are offered to search.
    loras : list of str
        Files and folders of LoRAs that are offered.
    longest : int
        Maximum number of waiting jobs.
    keep : float
        Seconds after which results are deleted.
    largest : int
        Largest size of a request in bytes.
    batching : bool
        Run compatible jobs (:func:`sfumato.web.work.compatible`) in one batch.
    """

    folder: Path
    host: str = "127.0.0.1"
    token: str | None = None
    models: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    loras: list[str] = field(default_factory=list)
    longest: int = 100
    keep: float = 86_400
    largest: int = 64 * 2**20
    batching: bool = True


def build(settings: Settings) -> FastAPI:
    """Build the application; its queue starts with the server."""
    store = Store(settings.folder)
    queue = Queue(store, settings.longest, settings.keep, batching=settings.batching)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await queue.start()
        yield
        await queue.stop()
        store.close()

    # the guard checks the token; this only describes it for generated clients
    secured = [Depends(HTTPBearer(auto_error=False))] if settings.token else []
    app = FastAPI(
        title="sfumato",
        version=__version__,
        description="Generate, restore and explain pictures.",
        lifespan=lifespan,
        responses=FAILURES,
        dependencies=secured,
        docs_url=None,
        redoc_url=None,
    )
    app.state.queue = queue
    app.state.chosen = bundled()[0]  # model of requests to A1111's API that name none
    app.state.tasks = {}  # ids that A1111's clients give to their requests -> ids of the jobs
    app.state.offered = Offered(
        offered_models(settings.models), named(settings.indexes), named(settings.loras)
    )
    app.include_router(router)
    app.include_router(jobs.router, prefix="/v1")
    app.include_router(openai.router, prefix="/v1")
    app.include_router(a1111.router, prefix="/sdapi/v1")
    app.mount("/static", StaticFiles(directory=WEB / "static"), name="static")
    if DOCS.is_dir():
        app.mount("/docs", StaticFiles(directory=DOCS, html=True), name="docs")
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Guard, token=settings.token, host=settings.host, largest=settings.largest)
    return app


router = APIRouter()


@router.get("/", include_in_schema=False)
def studio() -> HTMLResponse:
    """The studio, with a link to the documentation if the server has it."""
    page = (WEB / "static" / "index.html").read_text("utf-8")
    if not DOCS.is_dir():
        page = page.replace(DOCS_LINK, "")
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


@router.get("/healthz")
async def health(request: Request) -> dict[str, Any]:
    """Whether the worker is alive, and how many jobs are queued."""
    queue: Queue = request.app.state.queue
    alive = queue.process is not None and queue.process.is_alive()
    return {"status": "ok" if alive else "starting", "queued": queue.store.count("queued")}


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    registry = CollectorRegistry()
    registry.register(jobs.Counts(request.app.state.queue))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def failure(status: int, message: str, *, param: str | None = None, **headers: str) -> JSONResponse:
    """Return an error response in OpenAI's format; `param` is the name of the wrong field."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": for_clients(message), "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers=dict(headers))


async def _asked_wrong(_: Request, error: Exception) -> Response:
    named = VALUE.match(str(error))
    return failure(400, str(error), param=named[1] if named else None)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"][1:])
        said = reason(item)
        if item["type"] == "json_invalid":
            parts.append(f"the body is not valid JSON: {item['ctx']['error']} at letter {key}")
        elif item["loc"] == ("body",) and item["type"] in NO_OBJECT:
            parts.append("send a JSON object, with the header Content-Type: application/json")
        else:
            parts.append(f"{key}: {said}" if key else said)
    message = "; ".join(parts)
    named = FIELD.match(message)
    return failure(422, message, param=named[1] if named else None)


async def _full(request: Request, _: Exception) -> Response:
    wait = request.app.state.queue.retry_after()
    return failure(429, "the queue is full; try again later", **{"Retry-After": str(wait)})


async def _failed(_: Request, error: Exception) -> Response:
    return failure(500, str(error))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failure(error.status_code, str(error.detail), **(error.headers or {}))


HANDLERS = {
    SfumatoError: _asked_wrong,
    RequestValidationError: _invalid,
    Full: _full,
    jobs.Failed: _failed,
    HTTPException: _http,
}
