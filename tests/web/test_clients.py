"""What other programs' clients send: nulls, several spellings, and requests that cannot be met."""

import base64
import io
import json
import threading
import time
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image
from tests.web.test_serve import serving

from sfumato.errors import OptionError
from sfumato.web.a1111 import ImageToImage, TextToImage, _body, _without_loras
from sfumato.web.app import Settings, build
from sfumato.web.bodies import CreateBody, TraceBody
from sfumato.web.openai import Generation
from sfumato.web.requests import decoded


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients")) as (_, address):
        yield address


def png(size=(64, 64), color=(200, 30, 30), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, "PNG")
    return stream.getvalue()


def b64(data):
    return base64.b64encode(data).decode()


def ask(address, path, body=None, **headers):
    """(status, answer) of a request; a body that is not bytes is sent as JSON."""
    kind = {"Content-Type": "application/json"} if not isinstance(body, bytes) else {}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {**kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_null_is_the_default():
    fields = dict.fromkeys(Generation.model_fields.keys() - {"prompt"})
    assert Generation.model_validate({"prompt": "x", **fields}) == Generation(prompt="x")
    fields = dict.fromkeys(ImageToImage.model_fields)
    assert ImageToImage.model_validate(fields) == ImageToImage()


@pytest.mark.parametrize("text", [b64(b"abcd" * 40), base64.encodebytes(b"abcd" * 40).decode()])
@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_base64_with_line_breaks_and_without_padding(text, head):
    assert decoded(head + text, "image") == decoded(head + text.rstrip("=\n"), "image")
    assert decoded(head + text, "image") == b"abcd" * 40


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/sdapi/v1/txt2img", {"prompt": "apple", "force_task_id": "\ud800"}, "force_task_id"),
        ("/sdapi/v1/txt2img", {"prompt": "apple", "styles": ["\ud800"]}, "styles"),
        ("/v1/images/generations", {"prompt": "a", "size": "\ud800"}, "size"),
        ("/v1/create", {"prompt": "a", "sampler": "\ud800"}, "sampler"),
    ],
)
def test_half_of_a_surrogate_pair_is_told_in_any_field(server, path, body, field):
    status, answer = ask(server, path, body)
    assert status in (400, 422)
    assert f"{field} is not valid Unicode" in answer["error"]["message"]


def test_a_body_that_is_no_json_object(server):
    wanted = "send a JSON object, with the header Content-Type: application/json"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask(server, "/v1/create", b'{"prompt": "x"}', **form)[1]["error"]["message"] == wanted
    assert ask(server, "/v1/create", ["x"])[1]["error"]["message"] == wanted
    plain = {"Content-Type": "application/json"}
    status, answer = ask(server, "/v1/create", b'{"prompt": x}', **plain)
    assert status == 422 and "the body is not valid JSON" in answer["error"]["message"]


def test_a_wrong_value_is_named_as_the_client_names_it(server):
    status, answer = ask(server, "/v1/images/generations", {"prompt": "a", "steps": 0})
    assert status == 400 and answer["error"]["param"] == "steps"
    status, answer = ask(server, "/sdapi/v1/txt2img", {"prompt": "a", "cfg_scale": -1})
    assert status == 400 and answer["error"]["message"].startswith("cfg_scale=-1")
    body = {"prompt": "a", "init_images": ["?"]}
    status, answer = ask(server, "/sdapi/v1/img2img", body)
    assert status == 400 and answer["error"]["message"].startswith("init_images is not valid")


class Fake:
    """A request of which only the chosen model is read."""

    class app:  # noqa: N801
        class state:  # noqa: N801
            chosen = "icons"


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, None),
        ({"width": 128}, (128, 128)),
        ({"height": 96}, (96, 96)),
        ({"width": 128, "height": 64}, (128, 64)),
    ],
)
def test_a_missing_side_equals_the_other(given, size):
    assert _body(Fake, TextToImage(prompt="x", **given)).size == size


def test_loras_in_a_prompt_of_a1111():
    text = "a cat <lora:mine:0.8>, red <lora:other>"
    assert _without_loras(text) == ("a cat , red", ["mine:0.800000", "other:1.000000"])
    assert _without_loras("<lora: mine :1e-1:2>")[1] == ["mine:0.100000"]
    with pytest.raises(OptionError, match="the scale is no number"):
        _without_loras("<lora:mine:much>")
    body = _body(Fake, TextToImage(prompt=text))
    assert body.loras == ("mine:0.800000", "other:1.000000") and "<" not in body.prompt
    assert _without_loras("a  b") == ("a  b", [])
    with pytest.raises(OptionError, match="one style"):
        _body(Fake, TextToImage(prompt="x", styles=["a", "b"]))
    with pytest.raises(OptionError, match="script_name"):
        _body(Fake, TextToImage(prompt="x", script_name="x/y/z plot"))


def test_an_interrupted_request_has_the_pictures_made_so_far(server):
    answers = []
    body = {"prompt": "an apple", "steps": 60, "n_iter": 40, "seed": 1, "force_task_id": "t"}
    thread = threading.Thread(target=lambda: answers.append(ask(server, "/sdapi/v1/txt2img", body)))
    thread.start()
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:  # until the first batch of eight pictures is finished
        now = ask(server, "/sdapi/v1/progress?id_task=t&skip_current_image=true")[1]
        if now["state"]["sampling_step"] > 62:
            break
        time.sleep(0.1)
    else:
        pytest.fail("no picture was finished in time")
    ask(server, "/sdapi/v1/interrupt", {})
    thread.join(60)
    status, answer = answers[0]
    assert status == 200 and 0 < len(answer["images"]) < 40
    info = json.loads(answer["info"])
    assert info["all_seeds"] == list(range(1, 1 + len(answer["images"])))


def test_a_picture_is_enlarged_to_a_size(server):
    body = {"image": b64(png((64, 48))), "resize_mode": 1}
    body |= {"upscaling_resize_w": 100, "upscaling_resize_h": 90}
    for crop, size in ((True, (100, 90)), (False, (120, 90))):
        answer = ask(server, "/sdapi/v1/extra-single-image", {**body, "upscaling_crop": crop})[1]
        assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).size == size
    answer = ask(server, "/sdapi/v1/extra-single-image", {**body, "upscaling_resize_w": 1})
    assert answer[0] == 200
    huge = {**body, "upscaling_resize_w": 10**400}
    assert ask(server, "/sdapi/v1/extra-single-image", huge)[0] == 422
    plain = {"image": body["image"], "upscaling_resize": 1}
    same = ask(server, "/sdapi/v1/extra-single-image", plain)[1]["image"]
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(same)))),
        np.asarray(Image.open(io.BytesIO(png((64, 48))))),
    )
    status, answer = ask(server, "/sdapi/v1/extra-single-image", {**plain, "upscaling_resize": 9})
    assert status == 400 and "upscaling_resize" in answer["error"]["message"]
    clear = {"image": b64(png((64, 48), (9, 9, 9, 99), "RGBA")), "upscaler_1": "R-ESRGAN 4x+"}
    for how in ({"upscaling_resize": 1}, {**body, "image": clear["image"]}):
        made = ask(server, "/sdapi/v1/extra-single-image", {**clear, **how})[1]["image"]
        assert Image.open(io.BytesIO(base64.b64decode(made))).mode == "RGBA"


def test_edits_take_one_picture_and_a_mask_with_transparency(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="one picture can be edited"):
        client.images.edit(image=[png(), png()], prompt="x")
    for mask in (png(mode="RGBA", color=(0, 0, 0, 255)), png()):
        with pytest.raises(openai.BadRequestError, match="no transparent pixels"):
            client.images.edit(image=png(), mask=mask, prompt="x")
    with pytest.raises(openai.BadRequestError, match="a URL gives a PNG"):
        client.images.generate(prompt="x", response_format="url", output_format="jpeg")
    sizes = []
    for quality in (5, 95):
        extra = {"seed": 1, "steps": 1}
        made = client.images.generate(
            prompt="x", output_format="jpeg", output_compression=quality, extra_body=extra
        )
        data = base64.b64decode(made.data[0].b64_json)
        assert data[:2] == b"\xff\xd8"
        sizes.append(len(data))
    assert sizes[0] < 0.7 * sizes[1]


def test_partial_pictures_have_the_requested_format(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    stream = client.images.generate(
        prompt="x", stream=True, partial_images=1, output_format="jpeg", extra_body={"steps": 30}
    )
    kinds = {event.type: base64.b64decode(event.b64_json)[:2] for event in stream}
    assert set(kinds.values()) == {b"\xff\xd8"}
    wrong = client.images.generate(
        prompt="x", stream=True, extra_body={"fast": True, "guidance_scale": 4}
    )
    with pytest.raises(openai.APIError, match="--fast|fast works without") as raised:
        list(wrong)
    assert raised.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("token", [None, "secret"])
def test_the_description_says_how_to_log_in(token, tmp_path):
    app = build(Settings(folder=tmp_path, token=token))
    described = app.openapi()
    app.state.queue.store.close()
    schemes = described["components"].get("securitySchemes", {})
    assert [scheme["scheme"] for scheme in schemes.values()] == (["bearer"] if token else [])
    assert ("security" in described["paths"]["/v1/create"]["post"]) == bool(token)


def test_models_by_name(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    assert client.models.retrieve("icons").id == "icons"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("iconz")


def test_the_description_has_the_fields_that_are_read(server):
    paths = ask(server, "/openapi.json")[1]
    for name in ("edits", "variations"):
        content = paths["paths"][f"/v1/images/{name}"]["post"]["requestBody"]["content"]
        schema = content["multipart/form-data"]["schema"]
        assert {"image", "stream", "output_format", "seed", "steps"} <= schema["properties"].keys()
        assert ("prompt" in schema["required"]) == (name == "edits")
    schemas = paths["components"]["schemas"]
    assert schemas["CreateBody"]["properties"]["count"]["maximum"] == 64
    assert "base64" in schemas["CreateBody"]["properties"]["source"]["description"]
    assert CreateBody(prompt="x", count=2).count == 2
    with pytest.raises(OptionError, match="count=2"):
        TraceBody(prompt="x", count=2)


def test_jobs_are_selected_by_kind_and_status(server):
    ask(server, "/v1/create?wait=true", {"prompt": "a", "steps": 1, "size": 128})
    points = [[0, 0, 1], [1, 1, 2]]
    ask(server, "/v1/points?wait=true", {"points": points, "steps": 1})
    jobs = ask(server, "/v1/jobs?kind=create&status=completed&status=cancelled&count=3")[1]["jobs"]
    assert jobs and {job["kind"] for job in jobs} == {"create"}
    assert {job["status"] for job in jobs} <= {"completed", "cancelled"}
    assert ask(server, "/v1/jobs?kind=none")[1]["jobs"] == []
