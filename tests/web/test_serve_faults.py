"""What a server does about requests that no client should send, and about clients that leave."""

import base64
import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient
from tests.web.test_serve import ask, ended, serving

from sfumato.cli import main
from sfumato.errors import ModelError, OptionError
from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import make_plan
from sfumato.web import queue, unpacked
from sfumato.web.a1111 import HASH
from sfumato.web.app import Settings, build
from sfumato.web.bodies import ROWS, ReduceBody
from sfumato.web.messages import for_clients
from sfumato.web.requests import Offered, checked, offered_models
from sfumato.web.work import Work, check_limits
from sfumato.web.worker import _said

LONG = {"epochs": 100, "codes": [2]}  # a comparison whose events are many seconds apart


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as (_, address):
        yield address


def test_two_models_of_one_name_are_refused(tmp_path):
    paths = [str(tmp_path / part / "sd-1.5") for part in ("a", "b")]
    with pytest.raises(OptionError, match="have the same name"):
        offered_models(paths)
    named = offered_models([str(tmp_path / "sd-1.4"), str(tmp_path / "sd-1.5.safetensors")])
    assert {"sd-1.4", "sd-1.5"} < named.keys()


@pytest.mark.parametrize(
    ("asked", "name"), [("my model", "my model"), ("icons [0a1b2c3d4e]", "icons")]
)
def test_only_the_digest_is_cut_from_a_models_name(asked, name):
    assert HASH.sub("", asked) == name


def test_all_rows_is_not_more_than_the_server_allows(tmp_path):
    body = ReduceBody(limit=None)
    assert checked(body, tmp_path, Offered({}, {}, {}))["limit"] == ROWS


def test_half_a_surrogate_pair_is_refused_and_breaks_nothing(server):
    for path, body in (
        ("create", {"prompt": "\ud800"}),
        ("create", {"prompt": ["a", "b \udfff"]}),
        ("search", {"index": "\ud800", "query": "a"}),
        ("traces", {"prompt": "a", "changes": [{"prompt": "\ud800"}]}),
    ):
        status, answer = ask(server, f"/v1/{path}?wait=true", body)
        assert status in (400, 422) and "is not valid Unicode" in answer["error"]["message"]
    assert ask(server, "/v1/jobs")[0] == 200


@pytest.mark.parametrize("header", [{"Host": "["}, {"Origin": "http://["}])
def test_headers_that_cannot_be_read(server, header):
    with contextlib.closing(http.client.HTTPConnection(urlsplit(server).netloc)) as connection:
        connection.request("GET", "/v1/models", headers=header)
        answer = connection.getresponse()
        assert answer.status == 400 and json.load(answer)["error"]["message"]


def repeated(*, nested=False, listed=False):
    """A parquet file with one long text, repeated, in base64."""
    stream = io.BytesIO()
    if listed:
        table = pa.table({"numbers": [np.zeros(80_000_000, np.int32)]})
    elif nested:
        table = pa.table({"image": [{"bytes": b"x" * 10_000_000}] * 64})
    else:
        table = pa.table({"text": ["x" * 1_000_000] * 800})
    pq.write_table(table, stream)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("kinds", [{}, {"nested": True}, {"listed": True}])
def test_a_repeated_value_is_measured_in_little_memory(tmp_path, kinds):
    path = tmp_path / "a.parquet"
    path.write_bytes(base64.b64decode(repeated(**kinds)))
    code = (
        "import resource, sys, pathlib\n"
        "from sfumato.web import unpacked\n"
        "import pyarrow.parquet, pyarrow.compute\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = unpacked._unpacked(pathlib.Path(sys.argv[1]))\n"
        "print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    size, kilobytes = map(int, told.stdout.split())
    assert size > unpacked.UNPACKED
    assert kilobytes < 400_000


def packed(values):
    """A zip file of a file with `values`, in base64."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for _ in range(values):
                file.write(bytes(2**20))
    return base64.b64encode(stream.getvalue()).decode()


def wide_rows():
    """A .npz file of few rows with many values, in base64."""
    stream = io.BytesIO()
    np.savez_compressed(stream, np.arange(10, dtype=np.uint8)[:, None].repeat(60_000, axis=1))
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"data": packed(520), "name": "zeros.npz"}, "up to 512 MB"),
        ({"data": repeated(), "name": "a.parquet"}, "up to 512 MB"),
        ({"data": "UEsFBg==", "name": "zeros.zip"}, "the data cannot be read"),
        ({"data": "H4sIAAAA", "name": "a.gz"}, "the data cannot be read"),
        ({"layers": [10_000_000]}, "at most 4096 units"),
        ({"layers": [4000, 4000, 4000]}, "8192 in total"),
        ({"layers": [0]}, "layers: 0 is not at least 1"),
        ({"codes": [-1, 2]}, "codes: -1 is not at least 1"),
        ({"data": wide_rows(), "name": "a.npz", "codes": [1]}, "50 million weights"),
        ({"data": "no base64!", "name": "a.csv"}, "data is not valid base64"),
        ({"data": base64.b64encode(b"a,b\n1,2\n").decode(), "name": "my data.csv"}, "my data.csv"),
    ],
)
def test_data_that_would_take_too_much(server, body, said):
    status, answer = ask(server, "/v1/reduce?wait=true", body)
    assert status in (400, 422) and said in answer["error"]["message"]


def test_errors_name_fields_not_flags(server):
    status, answer = ask(server, "/v1/create", {})
    assert status == 422 and answer["error"]["param"] == "prompt"
    assert answer["error"]["message"] == "prompt is missing"
    status, answer = ask(server, "/v1/create", {"prompt": "a", "size": [64]})
    assert status == 422 and answer["error"]["param"] == "size"
    status, answer = ask(server, "/v1/create?wait=true", {"prompt": "a", "mask": "iVBORw0="})
    assert status == 400 and "--" not in answer["error"]["message"]
    assert for_clients("give --fill-box or --negative, not --model-of") == (
        "give fill_box or negative_prompt, not --model-of"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [("create?wait=true", {"count": 8}), ("images/generations", {"n": 8, "stream": True})],
)
def test_a_client_that_leaves_cancels_its_job(server, path, body):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
    asked = json.dumps({"prompt": "a car", "steps": 200, **body})
    connection.request("POST", f"/v1/{path}", asked, {"Content-Type": "application/json"})
    time.sleep(1)
    connection.close()
    newest = ask(server, "/v1/jobs?count=1")[1]["jobs"][0]
    assert ended(server, newest["id"])["status"] == "cancelled"


def test_finished_pictures_of_a_cancelled_job_are_kept(server):
    _, job = ask(server, "/v1/create", {"prompt": "a car", "steps": 8, "count": 64, "batch": 1})
    place = f"/v1/jobs/{job['id']}/pictures/0"
    with urllib.request.urlopen(f"{server}/v1/jobs/{job['id']}/events", timeout=60) as events:
        told = next(line for line in events if line.startswith(b'data: {"url"'))
        assert json.loads(told[6:])["url"] == place
        assert ask(server, f"/v1/jobs/{job['id']}/cancel", {})[1]["status"] == "cancelled"
        events.read()
    time.sleep(1)
    with urllib.request.urlopen(server + place) as answer:
        assert answer.read().startswith(b"\x89PNG")
    assert ask(server, f"/v1/jobs/{job['id']}/pictures/999999999999")[0] == 404


def test_a_worker_that_does_not_stop_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE", 0.2)
    with TestClient(build(Settings(tmp_path, host="testserver"))) as client:
        assert client.post("/v1/create?wait=true", json={"prompt": "a", "steps": 1}).is_success
        first = client.app.state.queue.process.pid
        job = client.post("/v1/reduce", json=LONG).json()
        while client.get(job["poll_url"]).json()["status"] == "queued":
            time.sleep(0.05)
        time.sleep(1)
        assert client.post(f"{job['poll_url']}/cancel").json()["status"] == "cancelled"
        done = client.post("/v1/create?wait=true", json={"prompt": "a", "steps": 1})
        assert done.json()["status"] == "completed"
        assert client.app.state.queue.process.pid != first
        assert client.get(job["poll_url"]).json()["status"] == "cancelled"


def test_an_interrupt_tells_the_clients_and_keeps_the_job(tmp_path):
    command = [sys.executable, "-m", "sfumato", "serve", "--folder", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    address = process.stdout.readline().strip().rstrip("/")
    answers = []
    body = {"prompt": "a car", "steps": 200, "count": 64}
    waiting = threading.Thread(
        target=lambda: answers.append(ask(address, "/v1/create?wait=true", body))
    )
    waiting.start()
    while not ask(address, "/v1/jobs")[1]["jobs"]:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    waiting.join(10)
    assert answers[0][0] == 503 and "continues" in answers[0][1]["error"]["message"]
    assert said.strip() == "sfumato: stopped; unfinished jobs continue at the next start"
    assert process.returncode == 0 and time.monotonic() - began < 10


def test_a_job_that_comes_while_a_dead_worker_is_replaced_is_done(tmp_path):
    with TestClient(build(Settings(tmp_path, host="testserver"))) as client:
        ask = {"prompt": "a", "steps": 1}
        assert client.post("/v1/create?wait=true", json=ask).is_success
        work = client.app.state.queue
        first = work.process
        first.kill()
        first.join()
        time.sleep(0.15)  # the death is noticed, and the next worker does not exist yet
        done = client.post("/v1/create?wait=true", json=ask)
        assert done.json()["status"] == "completed" and work.process.pid != first.pid


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ("sfumato", '{"schema": 1, "prompt": "\\ud800", "scale": NaN}'),
        ("sfumato", '{"schema": 1, "x": ' + "[" * 900 + "]" * 900 + "}"),
        ("invokeai_metadata", '{"positive_prompt": "a \\ud800 cat", "seed": 1}'),
    ],
)
def test_settings_that_json_cannot_hold(server, chunk, text):
    info, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt(chunk, text)
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=info)
    asked = {"image": base64.b64encode(stream.getvalue()).decode()}
    assert ask(server, "/sdapi/v1/png-info", asked)[0] == 200


def test_a_model_that_does_not_exist_is_told_at_the_start(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["sfumato", "serve", "--model", str(tmp_path / "nothing")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "unknown model" in capsys.readouterr().err


def test_an_error_of_a_model_names_it_as_the_server_offers_it(tmp_path):
    work = Work("1", "create", {"model": "/srv/models/sd", "loras": ["/srv/l/ink:0.5"]}, tmp_path)
    error = ModelError("/srv/models/sd/unet/config.json lacks x, and /srv/l/ink is for another")
    assert _said(error, work) == "sd/unet/config.json lacks x, and ink is for another"


def test_a_body_of_millions_of_values_is_refused_at_once(server):
    started = time.monotonic()
    status, answer = ask(server, "/v1/points", {"points": [[0.1, 0.2, 1]] * 200_000})
    assert status == 413 and "200000 values" in answer["error"]["message"]
    assert time.monotonic() - started < 5


def test_the_defaults_of_a_model_do_not_pass_the_limits():
    plan = make_plan(CreateOptions(model="icons"), load("icons"))
    check_limits(plan, 16)
    with pytest.raises(OptionError, match="up to 64 pictures, including all candidates"):
        check_limits(replace(plan, tries=(1,) * 5), 16)
    with pytest.raises(OptionError, match="up to 1024x1024"):
        check_limits(replace(plan, size=(2048, 64)), 1)
