"""The time left of a job is that of the part of the work that runs."""

from sfumato.types import Progress
from sfumato.web.running import Running


def test_the_time_left_counts_from_where_a_part_began(monkeypatch):
    """Half of the work was loading; the second half has just begun."""
    clock = iter([0.0, 0.0, 100.0, 103.0, 106.0])
    monkeypatch.setattr("sfumato.web.running.time.monotonic", lambda: next(clock))
    running = Running(started=next(clock), began=next(clock))
    assert running.as_json()["eta"] is None
    running.advance(Progress("fitting", 50, 100))
    assert running.as_json()["eta"] is None
    running.advance(Progress("fitting", 60, 100))
    assert running.as_json()["eta"] == 12.0
    running.advance(Progress("fitting", 80, 100))
    assert running.as_json()["eta"] == 4.0
