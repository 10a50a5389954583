"""The worker: a separate process that holds the models. If it crashes, the server continues.
It receives jobs through a pipe and sends back events. Between two events it checks for cancelled
jobs; when all jobs of the batch are cancelled, it stops the batch. After each batch it tells the
server that it is free.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sfumato.errors import SfumatoError
from sfumato.hub.lora import lora_scale
from sfumato.web.messages import for_clients
from sfumato.web.requests import offered_name
from sfumato.web.work import Event, Finished, JobProgress, Models, Preview, Work, perform


@dataclass(frozen=True)
class Cancel:
    """A message to the worker: stop a job."""

    id: str


@dataclass(frozen=True)
class JobEvent:
    """An event of a job."""

    id: str
    event: JobProgress | Preview | Finished


@dataclass(frozen=True)
class Ended:
    """The end of a job, with pictures or an error.

    `asked_wrong` is True if the request caused the error.
    """

    id: str
    pictures: list[dict[str, Any]]
    error: str | None = None
    asked_wrong: bool = False


@dataclass(frozen=True)
class Free:
    """The worker has ended a batch and waits for the next."""


def serve(pipe: Connection) -> None:
    """Run jobs as they arrive, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when to stop
    try:
        _Worker(pipe).run()
    except (EOFError, OSError):
        return


class _Worker:
    """Runs the jobs of one pipe.

    Attributes
    ----------
    cancelled : set of str
        Ids of cancelled jobs.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.models = pipe, Models()
        self.cancelled: set[str] = set()

    def run(self) -> None:
        """Run batches, one after the other."""
        while True:
            message = self.pipe.recv()
            if isinstance(message, Cancel):
                continue  # it came after the end of its batch
            self.cancelled.clear()
            self._batch(message)
            self.pipe.send(Free())

    def _batch(self, works: Sequence[Work]) -> None:
        """Run a batch of jobs; if the batch fails and has several jobs, run each job alone."""
        try:
            self._follow(works, perform(works, self.models))
        except Exception as error:
            if isinstance(error, EOFError | OSError) and self.pipe.closed:
                raise
            if len(works) > 1:
                for work in works:
                    if work.id not in self.cancelled:
                        self._batch([work])
                return
            wrong, said = isinstance(error, SfumatoError), _said(error, works[0])
            message = said if wrong else f"{type(error).__name__}: {said[:200]}"
            self.pipe.send(Ended(works[0].id, [], message, asked_wrong=wrong))

    def _follow(self, works: Sequence[Work], events: Iterator[Event]) -> None:
        """Forward events to the server; stop when all jobs are cancelled."""
        pictures: dict[str, list[dict[str, Any]]] = {work.id: [] for work in works}
        for event in events:
            while self.pipe.poll():
                self.cancelled.add(self.pipe.recv().id)
            if self.cancelled >= pictures.keys():
                break
            identity = works[event.job].id
            if identity in self.cancelled:
                continue
            if isinstance(event, Finished):
                pictures[identity].append({"file": event.file, **event.about})
            self.pipe.send(JobEvent(identity, event))
        for work in works:
            if work.id not in self.cancelled:
                self.pipe.send(Ended(work.id, pictures[work.id]))
            elif not pictures[work.id]:  # finished pictures are kept for a while
                shutil.rmtree(work.folder, ignore_errors=True)


def _said(error: Exception, work: Work) -> str:
    """The message of an error for a client, without paths of the server."""
    request = work.request
    said = str(error).replace(f"{work.folder}/", "")
    if "data" in request:  # a file of data is named as the client named it
        said = said.replace(Path(request["data"]).name, request["name"])
    loras = (lora_scale(asked)[0] for asked in request.get("loras", ()))
    for path in (request.get("model"), request.get("index"), *loras):
        if path is not None:
            said = said.replace(path, offered_name(path))
    return for_clients(said)
