"""OpenAI's Images API: generations, edits and variations, with partial pictures as a stream.

Fields that OpenAI does not have are accepted, too: seed, steps, guidance_scale, sampler, schedule,
eta, negative_prompt, style, fast. The official clients send them as ``extra_body``.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile

from sfumato import image
from sfumato.config import explain
from sfumato.errors import OptionError
from sfumato.hub.catalog import bundled
from sfumato.web.bodies import CreateBody, Foreign
from sfumato.web.jobs import finished, queue_of, submit
from sfumato.web.messages import for_clients
from sfumato.web.schema import EITHER, form_with
from sfumato.web.store import Job
from sfumato.web.work import encoded

router = APIRouter(prefix="/images")
STYLES = ("vivid", "natural")  # OpenAI's styles, which our models do not have
OURS = (
    *("seed", "steps", "guidance_scale", "sampler", "schedule", "eta"),
    *("negative_prompt", "style", "fast"),
)
# events that end a stream without a picture, and their messages if they have none
ENDINGS = {
    "failed": "the job failed",
    "cancelled": "the job was cancelled",
    "stopping": "the server stops; the job continues when it starts again",
}
VARIED = 0.6  # strength of variations: how much noise is added to the picture


class Variation(Foreign):
    """The fields of OpenAI's request for variations, and our own."""

    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str | None = None
    response_format: str | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(95, ge=0, le=100)
    background: str = "auto"
    partial_images: int = Field(0, ge=0, le=3)
    stream: bool = False
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    negative_prompt: str | None = None
    style: str | None = None
    eta: float | None = None
    fast: bool | None = None


class Generation(Variation):
    """The fields of OpenAI's requests for generations and edits, and our own."""

    prompt: str


@router.post("/generations", responses=EITHER)
async def generations(request: Request, asked: Generation) -> Response:
    """Generate pictures from a text."""
    return await _respond(request, asked, _body(asked, request), "image_generation")


@router.post("/edits", responses=EITHER, openapi_extra=form_with(Generation, "image", "mask"))
async def edits(request: Request) -> Response:
    """Inpaint the transparent part of a mask; without a mask, change the whole picture."""
    form = await request.form()
    asked = _asked({k: v for k, v in form.items() if isinstance(v, str)})
    pictures = [*form.getlist("image"), *form.getlist("image[]")]
    if len(pictures) > 1:
        raise OptionError("image: one picture can be edited, not several")
    source = await _upload("image", next(iter(pictures), None))
    extra: dict[str, Any] = {"source": source}
    mask = form.get("mask")
    if mask is not None:
        white = await asyncio.to_thread(_white, base64.b64decode(await _upload("mask", mask)))
        extra |= {"mask": white, "strength": 1.0}
    return await _respond(request, asked, _body(asked, request, **extra), "image_edit")


@router.post("/variations", responses=EITHER, openapi_extra=form_with(Variation, "image"))
async def variations(request: Request) -> Response:
    """Generate a variation of a picture, without a text."""
    form = await request.form()
    asked = _asked({"prompt": "a picture", **{k: v for k, v in form.items() if isinstance(v, str)}})
    source = await _upload("image", form.get("image"))
    body = _body(asked, request, source=source, strength=VARIED, guidance_scale=1.0)
    return await _respond(request, asked, body, "image_generation")


def _asked(fields: dict[str, Any]) -> Generation:
    """Validate the fields of a form."""
    try:
        return Generation.model_validate(fields)
    except ValidationError as error:
        raise OptionError(explain(error)) from None


def _body(asked: Generation, request: Request, **extra: Any) -> CreateBody:
    """Convert a request to a `CreateBody`."""
    given = {name: getattr(asked, name) for name in OURS if getattr(asked, name) is not None}
    if given.get("style") in STYLES:
        given.pop("style")
    if asked.size not in (None, "auto"):
        given["size"] = asked.size
    models = request.app.state.offered.models
    # an unknown name is one of OpenAI's, such as "dall-e-3": the first bundled model is used
    given["model"] = asked.model if asked.model in models else bundled()[0]
    given["transparent"] = asked.background == "transparent"
    partial = int(asked.stream and asked.partial_images > 0)
    return CreateBody(prompt=asked.prompt, count=asked.n, previews=partial, **{**given, **extra})


async def _upload(name: str, part: Any) -> str:
    """An uploaded file as base64."""
    if not isinstance(part, UploadFile):
        raise OptionError(f"{name}: the request has no such file; send the picture as a file")
    return base64.b64encode(await part.read()).decode()


def _white(mask: bytes) -> str:
    """Convert OpenAI's mask (transparent pixels are edited) to ours (white pixels are edited)."""

    def turned(picture: Image.Image) -> Image.Image:
        return picture.convert("RGBA").getchannel("A").point(lambda a: 255 * (a < 128))

    white = image.opened(mask, turned)
    if not white.getbbox():
        raise OptionError(
            "mask: it has no transparent pixels; make the parts transparent that should be edited"
        )
    return encoded(white)


async def _respond(request: Request, asked: Generation, body: CreateBody, kind: str) -> Response:
    if asked.response_format not in (None, "b64_json", "url"):
        raise OptionError('response_format is "b64_json" or "url"')
    if asked.response_format == "url" and asked.output_format != "png":
        raise OptionError("response_format: a URL gives a PNG; leave output_format out")
    if asked.background not in ("auto", "opaque", "transparent"):
        raise OptionError('background is "auto", "opaque" or "transparent"')
    if body.transparent and asked.output_format == "jpeg":
        raise OptionError("a JPEG has no transparent background: ask for png or webp")
    job = await submit(request, body)
    if asked.stream:
        events = _stream(request, job, asked, kind)
        return StreamingResponse(events, media_type="text/event-stream")
    result = await finished(request, job)
    return JSONResponse(await asyncio.to_thread(_response, request, job, result, asked))


def _response(
    request: Request, job: Job, result: dict[str, Any], asked: Generation
) -> dict[str, Any]:
    data = []
    for number, picture in enumerate(result["pictures"]):
        about = {"seed": picture["seed"], "revised_prompt": picture["settings"]["styled"]}
        if asked.response_format == "url":
            address = f"{request.base_url}v1/jobs/{job.id}/pictures/{number}"
            data.append({"url": address, **about})
        else:
            path = queue_of(request).store.files(job.id) / picture["file"]
            data.append({"b64_json": _converted(path.read_bytes(), asked), **about})
    size = "x".join(map(str, result["pictures"][0]["settings"]["size"]))
    return {
        "created": int(time.time()),
        "data": data,
        "background": "transparent" if asked.background == "transparent" else "opaque",
        "output_format": asked.output_format,
        "size": size,
        "usage": _usage(),
    }


def _usage() -> dict[str, Any]:
    details = {"image_tokens": 0, "text_tokens": 0}
    return {
        "input_tokens": 0,
        "input_tokens_details": details,
        "output_tokens": 0,
        "total_tokens": 0,
    }


def _converted(png: bytes, asked: Generation) -> str:
    """A picture in the requested format, in base64."""
    if asked.output_format == "png":
        return base64.b64encode(png).decode()
    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        kept = picture if asked.background == "transparent" else image.flattened(picture)
        kept.save(stream, asked.output_format.upper(), quality=asked.output_compression)
    return base64.b64encode(stream.getvalue()).decode()


async def _stream(request: Request, job: Job, asked: Generation, kind: str) -> AsyncIterator[str]:
    """Stream up to the requested number of partial pictures, then the finished pictures."""
    sent = 0
    ground = "transparent" if asked.background == "transparent" else "opaque"
    common = {"background": ground, "quality": "auto", "output_format": asked.output_format}
    queue = queue_of(request)
    try:
        async for update in queue.watch(job.id):
            if update.kind == "preview" and sent < asked.partial_images:
                png = base64.b64decode(update.data["b64_json"])
                part = {"b64_json": _converted(png, asked), "partial_image_index": sent}
                yield _event(
                    f"{kind}.partial_image", {**common, **part, "size": asked.size or "auto"}
                )
                sent += 1
            elif update.kind == "completed":
                response = await asyncio.to_thread(_response, request, job, update.data, asked)
                for picture in response["data"]:
                    whole = {**common, **picture, "size": response["size"], "usage": _usage()}
                    yield _event(f"{kind}.completed", whole)
            elif update.kind in ENDINGS:
                message = update.data.get("error") or ENDINGS[update.kind]
                is_request = job.id in queue.wrong
                fault = "invalid_request_error" if is_request else "server_error"
                error = {"message": for_clients(message), "type": fault, "param": None}
                yield _event("error", {"error": error})
    finally:
        if not queue.closing:
            queue.cancel(job.id)  # the client has left; no effect on a job that has ended


def _event(kind: str, data: dict[str, Any]) -> str:
    event = {"type": kind, "created_at": int(time.time()), **data}
    return f"event: {kind}\ndata: {json.dumps(event)}\n\n"
