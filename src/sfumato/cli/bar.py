"""Show progress on stderr: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

from sfumato.cli.say import escaped, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# a line is printed after SECONDS if another SHARE of the work is done, else after LONGEST seconds
SECONDS, SHARE, LONGEST = 10.0, 0.1, 60.0


class Bar(Protocol):
    """Interface of both progress displays."""

    def update(self, description: str, done: float, total: float | None, note: str = "") -> None:
        """Show the current work, the part of it that is done, and a note."""
        ...


def bar() -> AbstractContextManager[Bar]:
    """Return a progress bar for a terminal, and progress lines for any other output."""
    return _Shown() if sys.stderr.isatty() else _Lines()


class _Shown:
    """A bar that disappears at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        text, more = (
            TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[note]")
        )
        columns = text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), more
        self.progress: Progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, description: str, done: float, total: float | None, note: str = "") -> None:
        shown: dict[str, Any] = {
            "description": escaped(description),
            "completed": done,
            "total": total,
            "note": escaped(note),
        }
        if self.task is None:
            self.task = self.progress.add_task(shown["description"], total=total, note="")
        self.progress.update(self.task, **shown)


class _Lines:
    """Prints a line for each tenth of the work, at least 10 s after the last line.

    After 60 s without a line, it prints one in any case.
    """

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.share = 0.0
        self.description = ""
        # start time of the current work, and the share done by then: a run may be resumed
        self.started = self.last, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, description: str, done: float, total: float | None, note: str = "") -> None:
        now, share = time.monotonic(), done / total if total else 0.0
        if description != self.description:
            self.description, self.share, self.started = description, 0.0, (now, share)
        since, first = self.started
        waited = now - self.last
        if waited < SECONDS or (waited < LONGEST and abs(share - self.share) < SHARE):
            return
        self.last, self.share = now, share
        seconds = (now - since) * (1 - share) / max(share - first, 1e-9)
        left = f", about {seconds:.0f} s left" if first < share < 1 else ""
        say(f"{description}: {share:.0%}{left}" + (f"; {note}" if note else ""), err=True)
