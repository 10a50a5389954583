"""The server, driven by the clients that people have."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import openai
import pytest
import webuiapi
from PIL import Image
from starlette.testclient import TestClient

import sfumato
from sfumato.metadata import read
from sfumato.web.app import Settings, build


@contextlib.contextmanager
def serving(folder, *words, token=None):
    """A server of its own; yields its process and address."""
    command = [sys.executable, "-m", "sfumato", "serve", "--folder", str(folder), "--port", "0"]
    extra = {"SFUMATO_TOKEN": token} if token else {}
    process = subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **extra},
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield process, address.rstrip("/")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as (_, address):
        yield address


def ask(address, path, body=None, headers=(), raw=None):
    """Status and JSON of a request."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **dict(headers)}
    request = urllib.request.Request(address + path, data, given)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")


def ended(address, identity, seconds=120):
    """A job when it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _, job = ask(address, f"/v1/jobs/{identity}")
        if job["status"] in ("completed", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job has not ended: {job}")


def b64(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def noise(size=(64, 64)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def test_create_is_what_the_library_makes(server):
    body = {"prompt": ["a red apple", "a house"], "seed": 7, "steps": 2}
    status, job = ask(server, "/v1/create?wait=true", body)
    assert (status, job["status"]) == (200, "completed")
    alone = sfumato.create(["a red apple", "a house"], sfumato.CreateOptions(seed=7, steps=2))
    for picture, made in zip(job["result"]["pictures"], alone, strict=True):
        with urllib.request.urlopen(server + picture["url"]) as answer:
            data = answer.read()
        values = np.asarray(Image.open(io.BytesIO(data))).astype(int)
        assert np.abs(values - np.asarray(made.picture)).max() <= 1
        assert picture["seed"] == made.seed and read(data)[0]["prompt"] == made.prompt


def test_names_complete_a_word(server):
    _, told = ask(server, "/v1/names?start=fire%20e")
    assert told["names"][0] == "fire engine"
    _, told = ask(server, "/v1/names?start=app&count=50")
    assert "red apple" in told["names"] and len(told["names"]) <= 50
    assert ask(server, "/v1/names?start=x&model=/etc")[0] == 400
    assert ask(server, "/v1/names?start=")[1]["names"] == []


def test_names_close_in_meaning(server):
    _, told = ask(server, "/v1/names?start=serpent&near=true")
    assert told["names"] == [] and told["near"][0] == "snake"
    _, told = ask(server, "/v1/names?start=%00%F0%9F%92%A9&near=true&count=50")
    assert len(told["near"]) == 50
    assert ask(server, "/v1/names?start=%20&near=true")[1]["near"] == []


def test_a_body_in_parts_may_not_be_too_large_either(tmp_path):
    app = build(Settings(tmp_path, largest=1000))
    client = TestClient(app, base_url="http://127.0.0.1")
    parts = (b"x" * 400 for _ in range(5))  # without a length
    answer = client.post("/v1/create", content=parts, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "1000 bytes" in answer.text
    assert client.post("/v1/create", content=(b"{}" for _ in range(1))).status_code == 422
    app.state.queue.store.close()


def test_models_with_and_without_their_student_do_not_mix(server):
    known = {model["id"]: model for model in ask(server, "/v1/models")[1]["data"]}
    assert known["icons"]["fast"] is True
    settings = []
    for fast in (False, True, False):
        body = {"prompt": "a red apple", "seed": 7, "fast": fast}
        _, job = ask(server, "/v1/create?wait=true", body)
        settings.append(job["result"]["pictures"][0]["settings"])
    assert [made["steps"] for made in settings] == [8, 4, 8]
    assert ["student" in made["parts"] for made in settings] == [False, True, False]
    told = ask(server, "/v1/images/generations", {"prompt": "a red apple", "seed": 7, "fast": True})
    assert told[0] == 200


def test_a_picture_does_not_tell_the_servers_paths(server):
    body = {"prompt": "x", "steps": 2, "source": b64(noise()), "strength": 0.5}
    _, job = ask(server, "/v1/create?wait=true", body)
    with urllib.request.urlopen(server + job["result"]["pictures"][0]["url"]) as answer:
        data = answer.read()
    assert "source" not in read(data)[0] and b"source.picture" not in data
    assert "source.picture" not in json.dumps(job)


def test_a_job_is_followed_by_its_events(server):
    status, job = ask(server, "/v1/create", {"prompt": "a car", "seed": 1, "previews": 1})
    assert (status, job["status"] in ("queued", "generating")) == (202, True)
    with urllib.request.urlopen(server + job["events_url"], timeout=60) as answer:
        events = [part.split("\n") for part in answer.read().decode().split("\n\n") if part]
    kinds = [lines[0].removeprefix("event: ") for lines in events]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert kinds[-1] == "completed" and "preview" in kinds and "picture" in kinds
    steps = [d for k, d in zip(kinds, data, strict=True) if k == "progress" and d["done"]]
    assert steps[-1]["done"] == steps[-1]["total"] == 8
    preview = data[kinds.index("preview")]["b64_json"]
    assert Image.open(io.BytesIO(base64.b64decode(preview))).size == (64, 64)


def test_restore_gives_what_the_library_gives(server):
    picture = noise()
    body = {"image": "data:image/png;base64," + b64(picture), "fill_box": "10,10,6,6"}
    status, job = ask(server, "/v1/restore?wait=true", body)
    assert status == 200
    found = job["result"]["pictures"][0]
    assert found["report"]["largest_change_elsewhere"] == 0
    with urllib.request.urlopen(server + found["url"]) as answer:
        made = np.asarray(Image.open(io.BytesIO(answer.read())))
    options = sfumato.RestoreOptions(fill_box=(10, 10, 6, 6))
    alone = sfumato.restore(sfumato.Photo(np.asarray(picture)), options).photo.values
    assert (made == alone).all()


def test_the_openai_client(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    made = client.images.generate(
        prompt="a red apple", n=2, size="64x64", extra_body={"seed": 5, "steps": 2}
    )
    assert [Image.open(io.BytesIO(base64.b64decode(d.b64_json))).size for d in made.data] == [
        (64, 64)
    ] * 2
    assert made.data[0].seed == 5
    mask = Image.new("RGBA", (64, 64), "black")
    mask.paste((0, 0, 0, 0), (16, 16, 48, 48))
    files = [("a.png", base64.b64decode(b64(p)), "image/png") for p in (noise(), mask)]
    edited = client.images.edit(
        image=files[0], mask=files[1], prompt="a star", extra_body={"steps": 2}
    )
    values = np.asarray(Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json))))
    outside = np.ones((64, 64), bool)
    outside[16:48, 16:48] = False
    assert (values == np.asarray(noise()))[outside].all(), "what is opaque in the mask stays"
    assert (values != np.asarray(noise()))[~outside].mean() > 0.5
    with warnings.catch_warnings():  # OpenAI's own models have no variations any more
        warnings.simplefilter("ignore", DeprecationWarning)
        varied = client.images.create_variation(image=files[0], response_format="b64_json")
    assert varied.data[0].b64_json
    kinds = []
    for event in client.images.generate(prompt="a house", stream=True, partial_images=2):
        kinds.append(event.type)
        assert Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size == (64, 64)
    assert kinds[0] == "image_generation.partial_image"
    assert kinds[-1] == "image_generation.completed"
    assert "icons" in [model.id for model in client.models.list()]
    clear = client.images.generate(
        prompt="a red apple", background="transparent", output_format="webp", extra_body={"seed": 7}
    )
    with Image.open(io.BytesIO(base64.b64decode(clear.data[0].b64_json))) as picture:
        assert picture.format == "WEBP" and picture.mode == "RGBA"
        assert picture.getchannel("A").getextrema() == (0, 255)
    with pytest.raises(openai.BadRequestError, match="JPEG has no transparent"):
        client.images.generate(prompt="x", background="transparent", output_format="jpeg")
    odd = client.images.generate(prompt="x", size="60x50", response_format="b64_json")
    assert Image.open(io.BytesIO(base64.b64decode(odd.data[0].b64_json))).size == (60, 50)


def test_the_webuiapi_client(server):
    api = webuiapi.WebUIApi(baseurl=f"{server}/sdapi/v1", sampler="Euler a", steps=2)
    words = {"prompt": "a red apple", "seed": 5, "width": 64, "height": 64, "cfg_scale": 4}
    made = api.txt2img(**words, negative_prompt="blue")
    assert made.image.size == (64, 64) and made.info["seed"] == 5
    assert "Sampler: Euler a" in made.info["infotexts"][0]
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    masked = api.img2img(images=[noise()], mask_image=mask, **words)
    outside = np.asarray(mask) == 0
    assert (np.asarray(masked.image) == np.asarray(noise()))[outside].all()
    assert api.extra_single_image(noise((20, 12)), upscaling_resize=2).image.size == (40, 24)
    assert "DPM++ 2M" in [sampler["name"] for sampler in api.get_samplers()]
    assert [model["model_name"] for model in api.get_sd_models()] == ["icons"]
    assert api.get_options()["sd_model_checkpoint"] == "icons"
    _, raw = ask(server, "/sdapi/v1/txt2img", {"prompt": "a star", "seed": 6, "steps": 2})
    _, told = ask(server, "/sdapi/v1/png-info", {"image": raw["images"][0]})
    assert told["info"].startswith("a star") and "Seed: 6" in told["info"]
    assert told["parameters"]["prompt"] == "a star"
    assert api.png_info(noise()).info == "", "a picture without settings"


def test_progress_and_interrupt_of_the_web_ui(server):
    api = webuiapi.WebUIApi(baseurl=f"{server}/sdapi/v1")
    seen, statuses = [], []

    def work():
        body = {"prompt": "a car", "steps": 200, "batch_size": 8, "force_task_id": "mine"}
        statuses.append(ask(server, "/sdapi/v1/txt2img", body)[0])

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(0 < p < 1 for p in seen):
        seen.append(ask(server, "/sdapi/v1/progress?id_task=mine")[1]["progress"])
        time.sleep(0.05)
    assert any(0 < p < 1 for p in seen)
    started = time.monotonic()
    api.interrupt()
    thread.join(30)
    assert not thread.is_alive() and time.monotonic() - started < 10
    assert statuses == [200], "an interrupted request has the pictures made so far"
    assert ask(server, "/v1/create?wait=true", {"prompt": "a", "steps": 1})[0] == 200


def test_compatible_jobs_are_made_together_and_alike(server):
    jobs = [
        ask(server, "/v1/create", {"prompt": text, "seed": seed, "steps": 3})[1]["id"]
        for seed, text in enumerate(["a car", "a red apple", "a house", "a star"])
    ]
    for seed, (identity, text) in enumerate(
        zip(jobs, ["a car", "a red apple", "a house", "a star"], strict=True)
    ):
        job = ended(server, identity)
        with urllib.request.urlopen(server + job["result"]["pictures"][0]["url"]) as answer:
            values = np.asarray(Image.open(io.BytesIO(answer.read()))).astype(int)
        alone = sfumato.create(text, sfumato.CreateOptions(seed=seed, steps=3))[0].picture
        assert np.abs(values - np.asarray(alone)).max() <= 1


def test_cancelled_jobs_leave_nothing(server):
    _, job = ask(server, "/v1/create", {"prompt": "a car", "steps": 200, "count": 8})
    assert ask(server, f"/v1/jobs/{job['id']}/cancel", {})[1]["status"] == "cancelled"
    assert ask(server, f"/v1/jobs/{job['id']}/cancel", {})[0] == 409
    assert ask(server, f"/v1/jobs/{job['id']}/pictures/0")[0] == 404


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + b"\0\0\0\rIHDR"
    + b"\x7f\xff\xff\xff" * 2
    + b"\x08\x02\0\0\0"
    + b"\0" * 64
)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/create", {"prompt": "x", "steps": 0}, 422, "steps"),
        ("/v1/create", {"prompt": "x", "nonsense": 1}, 422, "nonsense"),
        ("/v1/create", {"prompt": "x", "model": "/etc/passwd"}, 400, "unknown model"),
        ("/v1/create", {"prompt": "x", "source": "/etc/passwd"}, 400, "base64"),
        (
            "/v1/create",
            {"prompt": "x", "source": "http://example.org/a.png"},
            400,
            "does not fetch URLs",
        ),
        ("/v1/create", {"prompt": "x", "count": 65}, 422, "at most 64"),
        ("/v1/create", {"prompt": "x", "count": 8, "best_of": 9}, 400, "including all candidates"),
        ("/v1/create", {"prompt": "x", "size": [4096, 4096]}, 400, "1024x1024"),
        ("/v1/create", {"prompt": "x" * 5000}, 400, "letters"),
        ("/v1/create?wait=true", {"prompt": "x", "style": "<b>"}, 400, "unknown style"),
        ("/v1/restore", {"image": "aGVsbG8="}, 422, "nothing to undo"),
        ("/v1/restore", {"image": "aGVsbG8=", "denoise": 9}, 400, "picture"),
        ("/v1/restore", {"image": PIXEL, "colorize": True, "like": "/etc/passwd"}, 400, "base64"),
        ("/v1/restore", {"image": base64.b64encode(BOMB).decode(), "denoise": 9}, 400, ""),
        ("/v1/images/generations", {"n": 3}, 422, "prompt"),
        ("/v1/images/generations", {"prompt": "x", "output_format": "bmp"}, 422, "output_format"),
        ("/sdapi/v1/img2img", {"prompt": "x"}, 400, "init_images"),
        ("/sdapi/v1/txt2img", {"prompt": "x", "enable_hr": True}, 400, "enable_hr"),
        ("/v1/jobs/../../etc/passwd", None, 404, ""),
        ("/static/..%2f..%2fapp.py", None, 404, ""),
        ("/v1/jobs/none", None, 404, "the job does not exist"),
    ],
    ids=str,
)
def test_what_is_asked_wrong_gets_one_sentence(server, path, body, status, message):
    found, answer = ask(server, path, body)
    assert found == status, answer
    told = json.dumps(answer)
    assert message in told
    assert "Traceback" not in told and "/tmp" not in told and "served" not in told
    assert ask(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Length": "99999999999"}, 413),
    ],
    ids=str,
)
def test_requests_of_strangers(server, headers, status):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        known = {"Host": f"{host}:{port}", "Content-Type": "application/json", **headers}
        told = "".join(f"{name}: {value}\r\n" for name, value in known.items())
        line.sendall(f"POST /v1/create HTTP/1.1\r\n{told}Connection: close\r\n\r\n".encode())
        assert line.recv(100).decode().split()[1] == str(status)


def test_a_token_is_asked_for(tmp_path):
    with serving(tmp_path, token="sesame") as (_, address):
        assert ask(address, "/v1/models")[0] == 401
        assert ask(address, "/v1/models", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert ask(address, "/v1/models", headers={"Authorization": "Bearer sesame"})[0] == 200
        assert ask(address, "/healthz")[0] == 200
        known = {"Authorization": "Bearer sesame"}
        _, job = ask(address, "/v1/create?wait=true", {"prompt": "a", "steps": 1}, known)
        with urllib.request.urlopen(address + job["result"]["pictures"][0]["url"]) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n", "behind an id that cannot be guessed"
        assert ask(address, f"/v1/jobs/{job['id']}")[0] == 401


def test_another_host_needs_a_token(tmp_path):
    command = [sys.executable, "-m", "sfumato", "serve", "--folder", str(tmp_path / "x")]
    told = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True)
    assert told.returncode == 2
    assert "give --token" in told.stderr
    assert not (tmp_path / "x").exists()


def test_a_full_queue_says_when_to_come_again(tmp_path):
    with serving(tmp_path, "--queue", "2") as (_, address):
        answers = [
            ask(address, "/v1/create", {"prompt": "a", "steps": 100, "sampler": "euler", "seed": k})
            for k in range(20)
        ]
        found = [status for status, _ in answers]
        assert set(found) == {202, 429}
        assert "try again later" in json.dumps(answers[-1][1])


@pytest.mark.parametrize("victim", ["server", "worker"])
def test_a_killed_server_or_worker_loses_no_job(tmp_path, victim):
    """Each accepted job ends exactly once, in a result or a stated failure."""
    with serving(tmp_path) as (process, address):
        asked = [
            ask(address, "/v1/create", {"prompt": "a car", "seed": k, "steps": 6 + k % 2})[1]["id"]
            for k in range(10)
        ]
        ended(address, asked[0])
        if victim == "worker":
            pids = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
            ).stdout.split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            jobs = [ended(address, identity) for identity in asked]
        else:
            process.kill()
            process.wait()
    if victim == "server":
        with serving(tmp_path) as (_, address):
            jobs = [ended(address, identity) for identity in asked]
    assert {job["status"] for job in jobs} == {"completed"}
    assert [job["result"]["pictures"][0]["seed"] for job in jobs] == list(range(10))


def test_metrics_and_health(server):
    with urllib.request.urlopen(server + "/metrics") as answer:
        text = answer.read().decode()
    assert 'sfumato_jobs{status="completed"}' in text
    assert ask(server, "/healthz")[1]["status"] == "ok"
    with urllib.request.urlopen(server + "/openapi.json") as answer:
        described = json.load(answer)
    assert {"/v1/create", "/v1/restore", "/v1/images/generations"} <= described["paths"].keys()
    steps = described["components"]["schemas"]["CreateBody"]["properties"]["steps"]
    assert {"type": "integer", "minimum": 1, "maximum": 200} in steps["anyOf"]


@pytest.mark.parametrize("built", [True, False])
def test_the_studio_offers_the_documentation_where_it_is_built(tmp_path, monkeypatch, built):
    folder = tmp_path / "docs"
    if built:
        folder.mkdir()
        (folder / "index.html").write_text("<p>all about it")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr("sfumato.web.app.DOCS", folder)
    app = build(Settings(folder=tmp_path / "served", token="secret"))
    client = TestClient(app)  # without the token
    assert ("/docs/" in client.get("/").text) == built
    page = client.get("/docs/")
    assert (page.status_code == 200 and "all about it" in page.text) == built
    assert client.get("/docs/..%2fsecret").status_code in (401, 404)
    app.state.queue.store.close()
