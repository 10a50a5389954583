"""The state of a running job, and its events for the watchers of the job."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sfumato.types import Progress


@dataclass(frozen=True)
class Update:
    """An event for the watchers of a job.

    Attributes
    ----------
    kind : {"progress", "preview", "picture", "completed", "failed", "cancelled", "stopping"}
        After "stopping", the server stops; the job continues later.
    data : dict
    """

    kind: str
    data: dict[str, Any]


@dataclass
class Running:
    """State of a running job."""

    started: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)  # of the current part of the work
    first: float = 0.0  # share of the whole work that was done when the current part began
    progress: Progress | None = None
    preview: str | None = None
    made: list[dict[str, Any]] = field(default_factory=list)  # the finished pictures

    def as_json(self) -> dict[str, Any]:
        """Progress of the job: what, done, total, and eta in seconds."""
        now = self.progress
        if now is None:
            return {"what": "waiting for the model", "done": 0, "total": 1, "eta": None}
        share, eta = _share(now), None
        if share > self.first:
            taken = time.monotonic() - self.began
            eta = round(taken * (1 - share) / (share - self.first), 2)
        return {"what": now.what, "done": now.done, "total": now.total, "eta": eta}

    def advance(self, progress: Progress) -> None:
        """Note new progress; the time left is measured anew for each part of the work."""
        if self.progress is None or self.progress.what != progress.what:
            self.began, self.first = time.monotonic(), _share(progress)
        self.progress = progress


def _share(progress: Progress) -> float:
    return progress.done / max(progress.total, 1e-9)
