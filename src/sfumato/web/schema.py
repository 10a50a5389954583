"""What the API answers, as its description at ``/openapi.json`` tells it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class Wrong(BaseModel):
    """An error, in the shape that OpenAI's clients read."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every answer that tells an error."""

    error: Wrong


class ProgressRecord(BaseModel):
    """How far a job is."""

    what: str
    done: float
    total: float
    eta: float | None = None


class JobRecord(BaseModel):
    """A job: where it is in the queue, how far it is, and what came of it."""

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


def told(description: str, model: type[BaseModel] = Failure) -> dict[str, Any]:
    """An answer in JSON."""
    return {"description": description, "model": model}


def file(kind: str, description: str) -> Responses:
    """An answer that is a file or a stream of a media type."""
    return {200: {"description": description, "content": {kind: {}}}}


FAILURES: Responses = {
    400: told("What is asked for cannot be done, or cannot be read; the message says why."),
    401: told("The token is missing or wrong."),
    403: told("The request comes from another site."),
    409: told("The job has ended already, or was cancelled while its end was waited for."),
    413: told("The request is too large."),
    422: told("A field is wrong; the message names it."),
    429: told("The queue is full; Retry-After says when to try again."),
    500: told("A job failed."),
}
NOT_FOUND: Responses = {404: told("There is no such job, or it has no such file.")}
STARTED: Responses = {
    200: told("The job at its end, with ?wait=true.", JobRecord),
    202: told("The job, queued.", JobRecord),
}
EVENTS = file("text/event-stream", "Server-sent events.")
PICTURE = file("image/png", "A picture with its settings inside.")
PAGE = file("text/html", "A page that needs nothing else.")
EITHER: Responses = {
    200: {
        "description": "The pictures; with stream, partial ones first as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}
