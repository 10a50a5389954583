"""Show progress on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

from sfumato.cli.say import escaped, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# a line is due after SECONDS if SHARE more of the work is done, or else after LONGEST
SECONDS, SHARE, LONGEST = 10.0, 0.1, 60.0


class Bar(Protocol):
    """Interface of both progress displays."""

    def update(self, description: str, done: float, total: float | None, note: str = "") -> None:
        """Show what is being done, how much of it is done, and a note."""
        ...


def bar() -> AbstractContextManager[Bar]:
    """A bar on a terminal, lines elsewhere."""
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
    """Lines about long work: one after ten seconds and a tenth of it, and at least every minute."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.share = 0.0
        self.started: tuple[float, float] | None = (
            None  # start time and share: a run may be resumed
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, description: str, done: float, total: float | None, note: str = "") -> None:
        now, share = time.monotonic(), done / total if total else 0.0
        since, first = self.started = self.started or (now, share)
        waited = now - self.last
        if waited < SECONDS or (waited < LONGEST and abs(share - self.share) < SHARE):
            return
        self.last, self.share = now, share
        seconds = (now - since) * (1 - share) / max(share - first, 1e-9)
        left = f", about {seconds:.0f} s left" if first < share < 1 else ""
        say(f"{description}: {share:.0%}{left}" + (f"; {note}" if note else ""), err=True)
