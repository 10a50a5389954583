"""Jobs in an SQLite database: their requests and results survive a restart of the server.

A job ends exactly once, because each change of its status requires a certain previous status.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from sfumato.errors import OptionError
from sfumato.runtime import json_safe

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

Status = Literal["queued", "generating", "completed", "failed", "cancelled"]
ENDED = ("completed", "failed", "cancelled")
TRIES = 2  # largest number of attempts at a job: one retry after a crash

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    completed REAL,
    result TEXT,
    error TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON jobs (status, number);
"""


@dataclass(frozen=True)
class Job:
    """A job: one row of the table.

    Attributes
    ----------
    number : int
        Jobs run in the order of their numbers.
    id : str
        Random and hard to guess, because everyone who knows the id may see the job.
    kind : str
        Name of the command.
    request : dict
    status : {"queued", "generating", "completed", "failed", "cancelled"}
    tries : int
        Number of attempts.
    created, started, completed : float or None
        Seconds since 1970.
    result : dict or None
    error : str or None
        One sentence.
    """

    number: int
    id: str
    kind: str
    request: dict[str, Any]
    status: Status
    tries: int
    created: float
    started: float | None
    completed: float | None
    result: dict[str, Any] | None
    error: str | None


class Store:
    """The jobs of a server, in ``jobs.sqlite`` of a folder; their pictures are in ``jobs/ID/``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.held = _hold(folder)
        self.lock = threading.Lock()
        path = folder / "jobs.sqlite"
        try:
            self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self.database.row_factory = sqlite3.Row
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.executescript(SCHEMA)
        except sqlite3.Error as error:
            self.held.close()
            raise OptionError(
                f"{path} cannot be used: {error}; move it away, or give another --folder"
            ) from None

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self.database.close()
        self.held.close()

    def files(self, identity: str) -> Path:
        """The folder of a job's pictures."""
        return self.folder / "jobs" / identity

    def add(self, kind: str, request: Mapping[str, Any], identity: str | None = None) -> Job:
        """Queue a job."""
        identity = identity or new_id()
        row = (identity, kind, json.dumps(request), "queued", time.time())
        columns = "(id, kind, request, status, created)"
        self._change(f"INSERT INTO jobs {columns} VALUES (?, ?, ?, ?, ?)", row)
        job = self.get(identity)
        assert job is not None
        return job

    def get(self, identity: str) -> Job | None:
        """The job with an id; None if there is no such job."""
        found = self._rows("SELECT * FROM jobs WHERE id = ?", (identity,))
        return found[0] if found else None

    def newest(
        self, count: int, kinds: Sequence[str] = (), statuses: Sequence[str] = ()
    ) -> list[Job]:
        """The last jobs, newest first; only those of some kinds or statuses, if given."""
        wanted = {"kind": kinds, "status": statuses}
        parts = [f"{name} IN ({', '.join('?' * len(of))})" for name, of in wanted.items() if of]
        where = f"WHERE {' AND '.join(parts)} " if parts else ""
        question = f"SELECT * FROM jobs {where}ORDER BY number DESC LIMIT ?"
        return self._rows(question, (*kinds, *statuses, count))

    def waiting(self) -> list[Job]:
        """Queued jobs in order."""
        return self._rows("SELECT * FROM jobs WHERE status = 'queued' ORDER BY number", ())

    def count(self, status: Status) -> int:
        """How many jobs have a status."""
        with self.lock:
            question = "SELECT COUNT(*) FROM jobs WHERE status = ?"
            return int(self.database.execute(question, (status,)).fetchone()[0])

    def position(self, job: Job) -> int:
        """The number of queued jobs before a job."""
        with self.lock:
            question = "SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND number < ?"
            return int(self.database.execute(question, (job.number,)).fetchone()[0])

    def begin(self, identity: str) -> bool:
        """Mark a queued job as running; return False if the job is not queued any more."""
        return self._change(
            "UPDATE jobs SET status = 'generating', tries = tries + 1, started = ? "
            "WHERE id = ? AND status = 'queued'",
            (time.time(), identity),
        )

    def complete(self, identity: str, result: Mapping[str, Any]) -> bool:
        """Store the result of a running job."""
        return self._change(
            "UPDATE jobs SET status = 'completed', completed = ?, result = ? "
            "WHERE id = ? AND status = 'generating'",
            (time.time(), json.dumps(json_safe(result)), identity),
        )

    def fail(self, identity: str, error: str) -> bool:
        """Mark a job as failed, with the reason."""
        return self._end(identity, "failed", error)

    def cancel(self, identity: str, result: Mapping[str, Any] | None = None) -> bool:
        """Mark a job as cancelled if it has not ended; `result` is what it has finished."""
        return self._end(identity, "cancelled", None, result)

    def _end(
        self,
        identity: str,
        status: Status,
        error: str | None,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        stored = None if result is None else json.dumps(json_safe(result))
        return self._change(
            "UPDATE jobs SET status = ?, completed = ?, error = ?, result = ? WHERE id = ? AND "
            "status IN ('queued', 'generating')",
            (status, time.time(), error, stored, identity),
        )

    def recover(self, reason: str) -> list[Job]:
        """Queue interrupted jobs again.

        Jobs without attempts left are marked as failed and returned.
        """
        stopped = self._rows("SELECT * FROM jobs WHERE status = 'generating'", ())
        failed = [job for job in stopped if job.tries >= TRIES]
        for job in failed:
            self.fail(job.id, reason)
        self._change("UPDATE jobs SET status = 'queued' WHERE status = 'generating'", ())
        return [now for job in failed if (now := self.get(job.id)) is not None]

    def put_back(self) -> None:
        """Queue running jobs again when the server stops; the attempt does not count."""
        self._change(
            "UPDATE jobs SET status = 'queued', tries = tries - 1 WHERE status = 'generating'", ()
        )

    def expire(self, seconds: float) -> list[str]:
        """Delete jobs that ended more than `seconds` ago; returns their ids."""
        question = f"SELECT * FROM jobs WHERE status IN {ENDED} AND completed < ?"
        gone = [job.id for job in self._rows(question, (time.time() - seconds,))]
        for identity in gone:
            self._change("DELETE FROM jobs WHERE id = ?", (identity,))
        return gone

    def _change(self, statement: str, values: tuple[Any, ...]) -> bool:
        with self.lock:
            return self.database.execute(statement, values).rowcount > 0

    def _rows(self, question: str, values: tuple[Any, ...]) -> list[Job]:
        with self.lock:
            rows = self.database.execute(question, values).fetchall()
        return [_job(row) for row in rows]


def _hold(folder: Path) -> IO[bytes]:
    """Lock a folder against other servers, as long as the returned file is open.

    Raises
    ------
    OptionError
        If another server uses the folder.
    """
    file = (folder / "lock").open("wb")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OptionError(f"{folder} is used by another server; give another --folder") from None
    return file


def new_id() -> str:
    """A random id for a job, which cannot be guessed."""
    return secrets.token_urlsafe(16)


def _job(row: sqlite3.Row) -> Job:
    held = dict(row)
    for name in ("request", "result"):
        held[name] = None if held[name] is None else json.loads(held[name])
    return Job(**held)
