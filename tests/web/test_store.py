"""The store of jobs: each ends once, whatever happens to the server."""

import asyncio
import sqlite3

import pytest

from sfumato.errors import OptionError
from sfumato.web import queue
from sfumato.web.store import Store
from sfumato.web.worker import Ended


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "served")
    yield store
    store.close()


def test_a_job_that_stops_the_worker_twice_fails_and_is_told_so(store):
    job = store.add("create", {"prompt": "x"})
    for tries in (1, 2):
        assert store.begin(job.id)
        assert store.get(job.id).tries == tries
        failed = store.recover("it stopped")
    assert [(one.id, one.status, one.error) for one in failed] == [(job.id, "failed", "it stopped")]
    assert not store.begin(job.id)
    assert not store.complete(job.id, {}), "it has ended once"


def test_who_stops_the_server_blames_no_job(store):
    job = store.add("create", {"prompt": "x"})
    for _ in range(3):
        assert store.begin(job.id)
        store.put_back()
        assert store.recover("it stopped") == []
    assert (store.get(job.id).status, store.get(job.id).tries) == ("queued", 0)


def test_two_servers_do_not_share_a_folder(store):
    with pytest.raises(OptionError, match="used by another server"):
        Store(store.folder)


def test_positions_cancelling_and_forgetting(store):
    first, second = (store.add("create", {"prompt": text}) for text in "ab")
    assert [store.position(job) for job in (first, second)] == [0, 1]
    assert store.cancel(first.id) and not store.cancel(first.id)
    assert store.position(second) == 0
    assert store.expire(3600) == []
    assert store.expire(-1) == [first.id]
    assert [job.id for job in store.newest(9)] == [second.id]


def test_a_result_without_an_end_is_stored_as_json_can_hold_it(store):
    job = store.add("reduce", {})
    assert store.begin(job.id)
    assert store.complete(job.id, {"error": float("inf"), "figures": [{"ratio": float("nan")}]})
    assert store.get(job.id).result == {"error": None, "figures": [{"ratio": None}]}


class Pipe:
    """The server's end of a pipe to a worker that does nothing."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def close(self):
        pass


def test_a_full_disk_delays_the_end_of_a_job(store, monkeypatch):
    complete, calls = store.complete, []

    def full_at_first(*given):
        calls.append(given)
        if len(calls) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return complete(*given)

    async def main():
        jobs = queue.Queue(store)
        jobs.pipe, jobs._spawn = Pipe(), lambda: None
        await jobs.start()
        job = jobs.add("create", {"prompt": "x"})
        while job.id not in jobs.running:
            await asyncio.sleep(0.01)
        jobs._heard(Ended(job.id, []))
        assert store.get(job.id).status == "generating"
        done = await asyncio.wait_for(jobs.result(job.id), 10)
        await jobs.stop()
        return done, jobs.running

    monkeypatch.setattr(store, "complete", full_at_first)
    monkeypatch.setattr(queue, "RETRY", 0.05)
    done, running = asyncio.run(main())
    assert (done.status, len(calls), running) == ("completed", 2, {})


def test_a_worker_that_cannot_be_started_is_started_later(store, monkeypatch):
    spawned = []

    def spawn():
        spawned.append(True)
        if len(spawned) in (2, 3):
            raise OSError(12, "Cannot allocate memory")

    async def main():
        jobs = queue.Queue(store)
        jobs.pipe, jobs._spawn = Pipe(), spawn
        await jobs.start()
        await jobs.done.wait()
        jobs._crashed()
        job = jobs.add("create", {"prompt": "x"})
        while not jobs.pipe.sent:
            await asyncio.sleep(0.01)
        assert jobs.pipe.sent[0][0].id == job.id
        await jobs.stop()

    monkeypatch.setattr(queue, "PAUSE", 0.01)
    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(spawned) == 4


def test_a_damaged_database_is_told(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(OptionError, match="jobs.sqlite cannot be used: file is not a database"):
            Store(tmp_path)
