"""Reduce and search over HTTP."""

import base64
import io
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from tests.parity.test_lora import changes
from tests.web.test_serve import ask, b64, serving

from sfumato.hub.load import load
from sfumato.hub.lora import FILE, save_lora
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.tasks.search.index import indexing
from sfumato.tasks.search.query import search

COLORS = ("red", "green", "blue", "gold")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a server with an index of pictures and one of documents, and its folder."""
    folder = tmp_path_factory.mktemp("served")
    for kind in ("pictures", "texts"):
        (folder / kind).mkdir()
    for color in COLORS:
        Image.new("RGB", (40, 40), color).save(folder / "pictures" / f"{color}.png")
        words = f"a text about {color} things and {color} paint"
        (folder / "texts" / f"{color}.txt").write_text(words)
    for kind, space in (("pictures", "pca:2"), ("texts", "lsa:3")):
        for _ in indexing(folder / kind, folder / f"{kind}-index", space):
            pass
    words = [w for kind in ("pictures", "texts") for w in ("--index", f"{folder / kind}-index")]
    with serving(folder / "queue", *words) as (_, address):
        yield address, folder


def packed(rows):
    lines = [",".join("abcd"), *[",".join(f"{value:.5f}" for value in row) for row in rows]]
    return base64.b64encode("\n".join(lines).encode()).decode()


def test_a_table_is_compared(served):
    address, _ = served
    rows = np.random.default_rng(0).normal(size=(80, 4))
    body = {"data": packed(rows), "name": "own <b>.csv", "codes": [2], "epochs": 2}
    status, job = ask(address, "/v1/reduce?wait=true", body)
    assert (status, job["status"]) == (200, "completed"), job
    first = job["result"]["pictures"][0]
    assert first["verdict"] and first["report"]["trials"]
    page = urllib.request.urlopen(f"{address}/v1/jobs/{job['id']}/page")
    with page as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Security-Policy"] == "sandbox allow-scripts"
    assert "own &lt;b&gt;.csv in a few numbers" in text
    assert str(served[1]) not in text, "no path of the server"
    with urllib.request.urlopen(address + first["url"]) as answer:
        assert Image.open(io.BytesIO(answer.read())).size[0] > 100


def test_pictures_in_a_zip_are_compared(served):
    address, _ = served
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as held:
        for k in range(24):
            picture = io.BytesIO()
            Image.new("L", (8, 8), 10 * k).save(picture, "PNG")
            held.writestr(f"{k}.png", picture.getvalue())
    data = base64.b64encode(stream.getvalue()).decode()
    body = {"data": data, "name": "mine.zip", "codes": [1], "epochs": 1, "size": 8}
    status, job = ask(address, "/v1/reduce?wait=true", body)
    assert (status, job["status"]) == (200, "completed"), job


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"data": "AAAA", "name": "x.pkl"}, "x.pkl: the name of the file must end in one of .csv"),
        ({"data": "AAAA", "name": "x.csv"}, ""),
        ({"data": "AAAA", "name": "x.npz"}, ""),
        ({"data": "AAAA", "name": "x.zip"}, ""),
        ({"data": "///..", "name": "x.csv"}, "not valid base64"),
        ({"data": "http://x/y.csv", "name": "x.csv"}, "does not fetch URLs"),
        ({"codes": [1, 2, 3, 4, 5, 6, 7]}, "at most 6 code lengths"),
        ({"codes": [4096]}, "512 numbers"),
        ({"limit": 10**6}, "limit"),
        ({"epochs": 10**6}, "epochs"),
        ({"data": "AAAA", "name": "../../etc/x.csv"}, ""),
    ],
)
def test_data_that_cannot_be_compared(served, body, said):
    address, folder = served
    status, answer = ask(address, "/v1/reduce?wait=true", body)
    assert status in (400, 422), answer
    assert said in answer["error"]["message"]
    assert str(folder) not in str(answer)


def test_pictures_are_found_by_a_picture(served):
    address, folder = served
    body = {"index": "pictures-index", "image": b64(Image.new("RGB", (9, 9), (0, 0, 240))), "k": 2}
    status, job = ask(address, "/v1/search?wait=true", body)
    assert (status, job["status"]) == (200, "completed"), job
    hits = job["result"]["pictures"]
    alone = search(folder / "pictures-index", k=2, like=folder / "pictures" / "blue.png")
    assert [hit["name"] for hit in hits] == [hit.name for hit in alone]
    assert hits[0]["name"] == "blue.png"
    with urllib.request.urlopen(address + hits[0]["url"]) as answer:
        assert Image.open(io.BytesIO(answer.read())).getpixel((5, 5)) == (0, 0, 255)


def test_documents_are_found_by_words(served):
    address, _ = served
    body = {"index": "texts-index", "query": "green paint"}
    status, job = ask(address, "/v1/search?wait=true", body)
    assert (status, job["status"]) == (200, "completed"), job
    first = job["result"]["pictures"][0]
    assert first["name"] == "green.txt" and "green things" in first["text"] and "url" not in first
    assert ask(address, f"/v1/jobs/{job['id']}/pictures/0")[0] == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"index": "none", "query": "x"}, "none"),
        ({"index": "texts-index"}, "words or a picture"),
        ({"index": "texts-index", "query": "x", "image": "AAAA"}, "words or a picture"),
        ({"index": "texts-index", "query": "zzz"}, "no word of"),
        ({"index": "texts-index", "query": "green", "where": "drop table"}, "filter"),
        ({"index": "../pictures", "query": "x"}, ""),
        ({"index": "pictures-index", "query": "/etc/hostname"}, "only by an example picture"),
        ({"index": "texts-index", "query": "/etc/hostname"}, "no word of"),
        ({"index": "texts-index", "query": "green", "k": 1000}, "k"),
    ],
)
def test_what_cannot_be_searched(served, body, said):
    address, folder = served
    status, answer = ask(address, "/v1/search?wait=true", body)
    assert status in (400, 422), answer
    assert said in answer["error"]["message"]
    assert str(folder) not in str(answer)


def test_a_corruption_reads_no_file_of_the_server(served):
    body = {"corruption": "mask:file:/etc/hostname"}
    status, answer = ask(served[0], "/v1/reduce", body)
    said = "does not accept a corruption that reads files"
    assert status == 400 and said in answer["error"]["message"]


def test_probes_are_jobs(served):
    black = io.BytesIO()
    Image.new("RGB", (40, 40)).save(black, "PNG")
    body = {"image": base64.b64encode(black.getvalue()).decode()}
    status, job = ask(served[0], "/v1/probes?wait=true", {**body, "damage": "color"})
    assert status == 200
    whats = [picture["what"] for picture in job["result"]["pictures"]]
    assert whats == ["picture", "measured", "restored", "difference"]
    assert job["result"]["pictures"][1]["psnr"] is None  # it was gray before
    assert ask(served[0], "/v1/probes", {**body, "model": "elsewhere"})[0] == 400
    assert ask(served[0], "/v1/probes", {**body, "channels": [1e300]})[0] == 422
    assert ask(served[0], "/v1/lessons", {"lesson": "labels", "steps": 9000})[0] == 422


def test_lessons_are_jobs(served):
    points = [[k % 7, k % 5, 1] for k in range(60)]
    body = {"lesson": "losses", "points": points, "steps": 5}
    status, job = ask(served[0], "/v1/lessons?wait=true", body)
    assert status == 200
    assert set(job["result"]["pictures"][0]["curves"]) == {"squared", "absolute", "classes"}
    status, job = ask(served[0], "/v1/lessons?wait=true", {"lesson": "denoising", "steps": 5})
    assert status == 200 and job["result"]["pictures"][0]["url"].endswith("/pictures/0")


def test_points_are_walked(served):
    points = [[k % 7, k % 5, 1 + k % 2] for k in range(60)]
    body = {"points": points, "training": 20, "count": 4, "steps": 3, "follow": 1}
    status, job = ask(served[0], "/v1/points?wait=true", body)
    assert (status, job["status"]) == (200, "completed"), job
    found = job["result"]["pictures"][0]
    assert len(found["paths"]) == 4 and len(found["paths"][0]) == 4 and len(found["guesses"]) == 3
    assert "url" not in found
    status, answer = ask(served[0], "/v1/points", {"points": [[1, 2, 3], [0, 0, 1]]})
    assert status in (400, 422) and "class is 1 or 2" in answer["error"]["message"]


def test_a_lora_is_added_by_its_name(tiny, tmp_path):
    path = tmp_path / "private" / "mine"
    save_lora(changes(load(tiny)), path / FILE)
    words = ("--model", str(tiny), "--lora", str(path))
    with serving(tmp_path / "queue", *words) as (_, address):
        assert ask(address, "/v1/loras")[1]["data"] == [{"id": "mine"}]
        body = {"prompt": "a red apple", "model": tiny.name, "seed": 3, "loras": ["mine:0.5"]}
        status, job = ask(address, "/v1/create?wait=true", body)
        assert (status, job["status"]) == (200, "completed"), job
        picture = job["result"]["pictures"][0]
        assert picture["settings"]["loras"] == ["mine:0.5"]
        assert "lora mine:0.5" in picture["settings"]["parts"]
        assert "private" not in str(job)
        with urllib.request.urlopen(address + picture["url"]) as answer:
            made = np.asarray(Image.open(io.BytesIO(answer.read())))
        options = CreateOptions(model=str(tiny), seed=3, loras=(f"{path}:0.5",))
        alone = np.asarray(create("a red apple", options)[0].picture)
        assert np.abs(made.astype(int) - alone).max() <= 1
        assert ask(address, "/v1/create", {**body, "loras": [str(path)]})[0] in (400, 422)


def test_the_indexes_are_listed(served):
    status, answer = ask(served[0], "/v1/indexes")
    assert status == 200
    assert {(one["id"], one["kind"]) for one in answer["data"]} == {
        ("pictures-index", "pictures"),
        ("texts-index", "documents"),
    }


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("create", {"loras": ["/etc/x.safetensors"]}, "LoRA"),
        ("create", {"then_step": 2, "then": "x" * 5000}, "letters"),
        ("traces", {"changes": [{"steps": 1000}]}, "at most 200"),
        ("traces", {"changes": [{"prompt": "x" * 5000}]}, "letters"),
        ("traces", {"changes": [{"model": "icons"}]}, "model cannot differ"),
        ("traces", {"changes": [{}] * 6}, "changes"),
        ("traces", {"changes": [{"then": "a cat"}]}, "need then_step"),
    ],
)
def test_what_no_client_may_ask_for(served, path, body, said):
    status, answer = ask(served[0], f"/v1/{path}?wait=true", {"prompt": "a red apple", **body})
    assert status in (400, 422), answer
    assert said in answer["error"]["message"]


def test_a_lora_given_as_a_file_keeps_one_name(tiny, tmp_path):
    save_lora(changes(load(tiny)), tmp_path / "mine.safetensors")
    words = ("--model", str(tiny), "--lora", str(tmp_path / "mine.safetensors"))
    with serving(tmp_path / "queue", *words) as (_, address):
        assert ask(address, "/v1/loras")[1]["data"] == [{"id": "mine"}]
        for asked in ("mine:0.5", "mine.safetensors:0.5"):
            body = {"prompt": "a", "model": tiny.name, "steps": 1, "loras": [asked]}
            job = ask(address, "/v1/create?wait=true", body)[1]
            assert job["result"]["pictures"][0]["settings"]["loras"] == ["mine:0.5"], job
