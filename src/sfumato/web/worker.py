"""The worker: a process of its own that holds the models. If it dies, the server lives.

It is told what to do through a pipe, and answers with events. Between two events it looks whether a
job of the batch was cancelled; when all were, it stops.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from sfumato.errors import SfumatoError
from sfumato.web.work import Event, Finished, JobProgress, Models, Preview, Work, perform


@dataclass(frozen=True)
class Cancel:
    """Stop a job."""

    id: str


@dataclass(frozen=True)
class JobEvent:
    """An event of a job."""

    id: str
    event: JobProgress | Preview | Finished


@dataclass(frozen=True)
class Ended:
    """The end of a job: with its pictures, or with an error; by a wrong request or by a fault."""

    id: str
    pictures: list[dict[str, Any]]
    error: str | None = None
    asked_wrong: bool = False


def serve(pipe: Connection) -> None:
    """Work on what comes until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when to stop
    try:
        _Worker(pipe).run()
    except (EOFError, OSError):
        return


class _Worker:
    """Follows one pipe.

    Attributes
    ----------
    later : list
        Batches that came while another one was worked on: after all of its jobs were cancelled.
    cancelled : set of str
        Jobs that nobody waits for any more.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.models = pipe, Models()
        self.later: list[Sequence[Work]] = []
        self.cancelled: set[str] = set()

    def run(self) -> None:
        """Do one batch after the other."""
        while True:
            while not self.later:
                self._hear()
            works = self.later.pop(0)
            self._batch(works)
            self.cancelled -= {work.id for work in works}

    def _hear(self) -> None:
        told = self.pipe.recv()
        if isinstance(told, Cancel):
            self.cancelled.add(told.id)
        else:
            self.later.append(told)

    def _batch(self, works: Sequence[Work]) -> None:
        """Do some jobs at once; where one of several is wrong, each is done alone."""
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
            told = said if wrong else f"{type(error).__name__}: {said[:200]}"
            self.pipe.send(Ended(works[0].id, [], told, asked_wrong=wrong))

    def _follow(self, works: Sequence[Work], events: Iterator[Event]) -> None:
        """Send what happens on, and stop when nobody waits any more."""
        pictures: dict[str, list[dict[str, Any]]] = {work.id: [] for work in works}
        for event in events:
            while self.pipe.poll():
                self._hear()
            if self.cancelled >= pictures.keys():
                break
            identity = works[event.job].id
            if identity in self.cancelled:
                continue
            if isinstance(event, Finished):
                pictures[identity].append({"file": event.file, **event.about})
            self.pipe.send(JobEvent(identity, event))
        for work in works:
            if work.id in self.cancelled:
                shutil.rmtree(work.folder, ignore_errors=True)
            else:
                self.pipe.send(Ended(work.id, pictures[work.id]))


def _said(error: Exception, work: Work) -> str:
    """What an error says, without the server's folders."""
    return str(error).replace(f"{work.folder}/", "")
