"""The store of jobs: each ends once, whatever happens to the server."""

import pytest

from sfumato.errors import OptionError
from sfumato.web.store import Store


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
