"""The job queue.

The worker (a separate process) runs the jobs in order. Jobs of create that differ only in a few
options, such as prompt and seed, run together in one batch. Clients that watch a job get its
events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from sfumato.web.running import Running, Update
from sfumato.web.store import ENDED, Job, Store
from sfumato.web.work import Finished, JobProgress, Preview, Work, compatible
from sfumato.web.worker import Cancel, Ended, Free, JobEvent, serve

CRASHED = "the worker stopped twice while it worked on this job"
TOGETHER = 8  # largest number of jobs in a batch
LAST = (*ENDED, "stopping")  # events after which no other event follows
PATIENCE = 10.0  # seconds that a worker may take to stop a cancelled batch; then it is killed
PAUSE = 0.5  # seconds between the end of a worker and the next one
LONGEST_PAUSE = 30.0  # the pause doubles with each worker that cannot be started, up to this
RETRY = 5.0  # seconds until the database is tried again
FORGET = 60.0  # seconds between removals of old jobs
logger = logging.getLogger("sfumato.web")


class Full(Exception):
    """The queue is full."""


class Queue:
    """Accepts jobs, has the worker run them batch by batch, and publishes their events.

    Parameters
    ----------
    store : Store
    longest : int
        Maximum number of waiting jobs.
    keep : float
        Seconds from the end of a job until it is deleted.
    batching : bool
        Run compatible jobs (:func:`sfumato.web.work.compatible`) in one batch.
    """

    def __init__(
        self, store: Store, longest: int = 100, keep: float = 86_400, *, batching: bool = True
    ) -> None:
        self.store, self.longest, self.keep, self.batching = store, longest, keep, batching
        self.running: dict[str, Running] = {}
        self.watchers: dict[str, set[asyncio.Queue[Update]]] = defaultdict(set)
        self.woken, self.closing = asyncio.Event(), False
        self.pipe: Connection | None = None
        self.process: BaseProcess | None = None
        self.done = asyncio.Event()  # set while the worker is free
        self.deadline: asyncio.TimerHandle | None = None  # of a cancelled batch
        self.wrong: set[str] = set()  # jobs that failed because of their request
        self.average = 1.0  # average seconds of a job, for Retry-After

    async def start(self) -> None:
        """Recover the unfinished jobs of an earlier server, and start the worker."""
        self.store.recover(CRASHED)
        self.loop = asyncio.get_running_loop()
        self._spawn()
        self.task = asyncio.create_task(self._work())

    def dismiss(self) -> None:
        """Tell all watchers of jobs that the server is stopping."""
        self.closing = True
        for identity in list(self.watchers):
            self._send(identity, Update("stopping", {}))

    async def stop(self) -> None:
        """Stop the worker; queue its running jobs again, for the next start."""
        self.closing = True
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None:
            self.process.terminate()
            await asyncio.to_thread(self.process.join, 5)
        self.store.put_back()

    def check(self) -> None:
        """Refuse a job if too many jobs wait.

        Raises
        ------
        Full
        """
        if self.store.count("queued") >= self.longest:
            raise Full

    def add(self, kind: str, request: Mapping[str, Any], identity: str | None = None) -> Job:
        """Queue a job.

        Raises
        ------
        Full
            If too many jobs wait.
        """
        self.check()
        job = self.store.add(kind, request, identity)
        self.woken.set()
        return job

    def retry_after(self) -> int:
        """Seconds after which the queue may have room again."""
        return max(1, round(self.average * 2))

    def cancel(self, identity: str) -> bool:
        """Cancel a job; return False if it has already ended.

        The pictures that are finished become the result of the cancelled job.
        """
        running = self.running.get(identity)
        result = {"pictures": running.made} if running and running.made else None
        if not self.store.cancel(identity, result):
            return False
        if identity in self.running and self.pipe is not None:
            with contextlib.suppress(OSError):
                self.pipe.send(Cancel(identity))
            self.running.pop(identity)
            if not self.running and not self.done.is_set():
                self.deadline = self.loop.call_later(PATIENCE, self._kill)
        self._send(identity, Update("cancelled", {}))
        return True

    def _kill(self) -> None:
        """End a worker that does not stop a cancelled batch; :meth:`_crashed` starts another."""
        if self.process is not None and not self.done.is_set():
            self.process.kill()

    def _free(self) -> None:
        """Let the next batch begin."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        self.done.set()

    async def watch(self, identity: str) -> AsyncIterator[Update]:
        """Yield the events of a job until it ends."""
        inbox: asyncio.Queue[Update] = asyncio.Queue(maxsize=1000)
        self.watchers[identity].add(inbox)
        try:
            job = self.store.get(identity)
            if job is None:
                return
            if job.status in ENDED:
                yield _last(job)
                return
            if self.closing:  # too late to be told
                yield Update("stopping", {})
                return
            yield self._standing(job)
            while True:
                update = await inbox.get()
                yield update
                if update.kind in LAST:
                    return
        finally:
            self.watchers[identity].discard(inbox)
            if not self.watchers[identity]:
                del self.watchers[identity]

    async def result(self, identity: str) -> Job:
        """Wait for the end of a job."""
        async for _ in self.watch(identity):
            pass
        job = self.store.get(identity)
        assert job is not None
        return job

    def position(self, job: Job) -> int | None:
        """The number of jobs that wait or run before a queued job; None for another job."""
        if job.status != "queued":
            return None
        return self.store.position(job) + len(self.running)

    def _standing(self, job: Job) -> Update:
        """Progress of a job, and its place in the queue."""
        return Update("progress", {**self.progress(job), "queue_position": self.position(job)})

    def _tell_waiting(self) -> None:
        """Tell the watchers of queued jobs their new places in the queue."""
        with contextlib.suppress(sqlite3.Error):  # they are told later
            for identity in list(self.watchers):
                job = self.store.get(identity)
                if job is not None and job.status == "queued":
                    self._send(identity, self._standing(job))

    def progress(self, job: Job) -> dict[str, Any]:
        """Progress of a job."""
        if job.id in self.running:
            return self.running[job.id].as_json()
        ended = job.status == "completed"
        return {"what": job.status, "done": int(ended), "total": 1, "eta": None}

    def _send(self, identity: str, update: Update) -> None:
        for inbox in self.watchers.get(identity, ()):
            if update.kind in LAST or inbox.qsize() < inbox.maxsize - 1:
                inbox.put_nowait(update)

    def _spawn(self) -> None:
        """Start a worker, and a thread that listens to it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        try:
            self.process.start()
        except OSError:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        threading.Thread(target=self._listen, args=(self.pipe,), daemon=True).start()

    def _listen(self, pipe: Connection) -> None:
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                if not self.closing:
                    self.loop.call_soon_threadsafe(self._crashed)
                return
            self.loop.call_soon_threadsafe(self._heard, message)

    def _heard(self, message: JobEvent | Ended | Free) -> None:
        if isinstance(message, Free):
            self._free()
            return
        if message.id not in self.running:  # it was cancelled
            return
        if isinstance(message, Ended):
            self._ended(message)
            return
        event, running = message.event, self.running[message.id]
        if isinstance(event, JobProgress):
            running.advance(event.progress)
            self._send(message.id, Update("progress", running.as_json()))
        elif isinstance(event, Preview):
            running.preview = event.png
            self._send(message.id, Update("preview", {"b64_json": event.png}))
        elif isinstance(event, Finished):
            # files of pictures are numbered; a batch that failed begins again with the first
            stem = event.file.removesuffix(".png")
            number = int(stem) if stem.isdecimal() else len(running.made)
            running.made = [*running.made[:number], {"file": event.file, **event.about}]
            about = {"file": event.file, "number": number, **event.about}
            self._send(message.id, Update("picture", about))

    def _ended(self, message: Ended) -> None:
        taken = time.monotonic() - self.running[message.id].started
        try:
            if message.error is None:
                self.store.complete(message.id, {"pictures": message.pictures, "seconds": taken})
            else:
                self.store.fail(message.id, message.error)
            job = self.store.get(message.id)
        except sqlite3.Error:  # for example a full disk
            logger.exception("the end of a job cannot be stored")
            self.loop.call_later(RETRY, self._heard, message)
            return
        self.average = 0.9 * self.average + 0.1 * taken
        if message.asked_wrong:
            self.wrong.add(message.id)
        del self.running[message.id]
        if job is not None:
            self._send(message.id, _last(job))

    def _crashed(self) -> None:
        """Recover the jobs of a worker that died, and start a new worker."""
        self.done.clear()
        try:
            failed = self.store.recover(CRASHED)
        except sqlite3.Error:  # for example a full disk
            logger.exception("the jobs of a worker that died cannot be stored")
            self.loop.call_later(RETRY, self._crashed)
            return
        for job in failed:
            self._send(job.id, _last(job))
        self.running.clear()
        self.restart = self.loop.create_task(self._again())

    async def _again(self) -> None:
        """Start a new worker after a pause, so that failing workers do not restart all the time."""
        pause = PAUSE
        while True:
            await asyncio.sleep(pause)
            if self.closing:  # no worker that nobody would stop
                return
            try:
                self._spawn()
            except OSError:  # for example too little memory
                logger.exception("no worker can be started")
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            break
        self._free()
        self.woken.set()

    async def _work(self) -> None:
        """Send the worker one batch after the other, and delete old jobs now and then."""
        forgot = -FORGET
        self.done.set()
        while True:
            try:
                if time.monotonic() - forgot >= FORGET:
                    forgot = time.monotonic()
                    await asyncio.to_thread(self._forget)
                await self.done.wait()
                if not self.done.is_set():  # the worker has died since
                    continue
                batch = self._next()
            except (OSError, sqlite3.Error):  # for example a full disk: try again later
                logger.exception("the queue cannot be read")
                await asyncio.sleep(RETRY)
                continue
            if not batch:
                self.woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.woken.wait(), FORGET)
                continue
            self.done.clear()
            for work in batch:
                self.running[work.id] = Running()
            self._tell_waiting()
            assert self.pipe is not None
            try:
                self.pipe.send(batch)
            except OSError:  # the worker has just died; _listen reports it soon
                await asyncio.sleep(0.1)

    def _next(self) -> list[Work]:
        """Take the first waiting job and the jobs that can run in its batch."""
        batch: list[Work] = []
        retried = False
        for job in self.store.waiting():
            work = Work(job.id, job.kind, job.request, self.store.files(job.id))
            # a job that was started before may have crashed the worker, so it runs alone
            together = self.batching and job.tries == 0 and not retried
            if batch and not (together and compatible(batch[0], work)):
                continue
            if len(batch) < TOGETHER and self.store.begin(job.id):
                batch.append(work)
                retried = retried or job.tries > 0
        return batch

    def _forget(self) -> None:
        for identity in self.store.expire(self.keep):
            self.wrong.discard(identity)
            shutil.rmtree(self.store.files(identity), ignore_errors=True)


def _last(job: Job) -> Update:
    """The last event of a job that has ended."""
    if job.status == "completed":
        return Update("completed", job.result or {})
    return Update(job.status, {"error": job.error} if job.error else {})
