"""Responses of the API, for its description at ``/openapi.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class Wrong(BaseModel):
    """An error, in the format that OpenAI's clients read."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every error response."""

    error: Wrong


class ProgressRecord(BaseModel):
    """Progress of a job."""

    what: str
    done: float
    total: float
    eta: float | None = None


class JobRecord(BaseModel):
    """A job: its place in the queue, its progress and its result."""

    id: str
    kind: str
    status: Literal["queued", "generating", "completed", "failed", "cancelled"]
    created: float
    started: float | None
    completed: float | None
    queue_position: int | None
    progress: ProgressRecord | None
    poll_url: str
    events_url: str
    error: str | None
    result: dict[str, Any] | None


def response(description: str, model: type[BaseModel] = Failure) -> dict[str, Any]:
    """Describe a JSON response."""
    return {"description": description, "model": model}


def file_response(kind: str, description: str) -> Responses:
    """Describe a response that is a file or a stream of a media type."""
    return {200: {"description": description, "content": {kind: {}}}}


def form_with(record: type[BaseModel], *files: str) -> dict[str, Any]:
    """Describe a form with the fields of a record and with files.

    FastAPI cannot derive this description for a route that parses the form itself. The first file
    is required.
    """
    described = record.model_json_schema()
    fields = described["properties"] | {
        name: {"type": "string", "format": "binary"} for name in files
    }
    described |= {"properties": fields, "required": [files[0], *described.get("required", [])]}
    content = {"multipart/form-data": {"schema": described}}
    return {"requestBody": {"required": True, "content": content}}


FAILURES: Responses = {
    400: response("The request cannot be fulfilled or read; the message says why."),
    401: response("The token is missing or wrong."),
    403: response("The request comes from another site."),
    409: response(
        "The job has already ended, or was cancelled while the request waited for its end."
    ),
    413: response("The request is too large."),
    422: response("A field is wrong; the message names it."),
    429: response("The queue is full; Retry-After says when to try again."),
    500: response("A job failed."),
}
NOT_FOUND: Responses = {404: response("The job does not exist, or has no such file.")}
NO_MODEL: Responses = {404: response("The server does not offer the model.")}
STARTED: Responses = {
    200: response("With ?wait=true: the finished job.", JobRecord),
    202: response("The queued job.", JobRecord),
}
EVENTS = file_response("text/event-stream", "Server-sent events.")
PICTURE = file_response("image/png", "A picture with its settings inside.")
PAGE = file_response("text/html", "A self-contained HTML page.")
EITHER: Responses = {
    200: {
        "description": "The pictures; with stream, server-sent events with partial pictures first.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}
