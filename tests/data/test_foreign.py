"""Settings that other programs left in pictures."""

import io
import json
import time

import pytest
from PIL import Image, PngImagePlugin

from sfumato.data.foreign import from_a1111, options_of, read_options

A1111 = """a watercolor fox, (autumn:1.2)
in the woods
Negative prompt: blurry, text
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 965400086, \
Size: 512x768, Model hash: 45dee52b, Model: "one, two: v2", Denoising strength: 0.4, Version: 1"""

COMFYUI = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["12", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a glass bottle", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
    "12": {
        "class_type": "ConditioningSetTimestepRange",
        "inputs": {"conditioning": ["6", 0], "start": 0.0, "end": 1.0},
    },
}
INVOKEAI = {
    "positive_prompt": "a lighthouse",
    "negative_prompt": "",
    "width": 512,
    "height": 512,
    "seed": 77,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"name": "stable-diffusion-v1-5"},
}


def png(**texts):
    info, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def test_a1111():
    assert read_options(png(parameters=A1111)) == {
        "prompt": "a watercolor fox, (autumn:1.2)\nin the woods",
        "negative_prompt": "blurry, text",
        "steps": 28,
        "seed": 965400086,
        "guidance_scale": 6.5,
        "strength": 0.4,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "size": [512, 768],
    }


def test_a1111_without_a_positive_prompt():
    said = "Negative prompt: blurry, ugly\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3"
    assert not options_of({"parameters": said})  # no prompt: no settings of a picture
    found = from_a1111(said)
    assert (found["prompt"], found["negative_prompt"]) == ("", "blurry, ugly")


def test_a_long_line_is_read_in_time():
    """In a server, one picture must not stop all requests."""
    begin = time.perf_counter()
    for filling in (" ", "x", "x:", ': "'):
        options_of({"parameters": "a cat\nx" + filling * 20_000 + "!"})
    assert time.perf_counter() - begin < 2


def test_a_number_of_400_digits_is_left_out():
    said = f"a cat\nSteps: 20, Sampler: Euler, Seed: 1{'0' * 400}"
    assert "seed" not in options_of({"parameters": said})


def test_comfyui():
    graph = json.dumps(COMFYUI)
    assert read_options(png(prompt=graph, workflow="{}")) == {
        "prompt": "a glass bottle",
        "negative_prompt": "watermark",
        "steps": 20,
        "seed": 156680208700286,
        "guidance_scale": 8.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "size": [512, 640],
    }


def test_invokeai():
    assert read_options(png(invokeai_metadata=json.dumps(INVOKEAI))) == {
        "prompt": "a lighthouse",
        "steps": 30,
        "seed": 77,
        "guidance_scale": 7.5,
        "sampler": "dpmpp_2m",
        "size": [512, 512],
    }


def test_a_graph_of_circles_ends_at_once():
    """Each node leads to all others, and none says a text."""
    links = {f"in{k}": [str(k), 0] for k in range(30)}
    nodes = {str(k): {"class_type": "Mix", "inputs": links} for k in range(30)}
    sampler = {"class_type": "KSampler", "inputs": {"positive": ["0", 0], "negative": ["1", 0]}}
    assert options_of({"prompt": json.dumps({**nodes, "s": sampler})}) == {}


def test_numbers_that_are_none_are_left_out():
    said = "a cat\nSteps: 5, CFG scale: inf, Denoising strength: nan, Seed: 3"
    assert options_of({"parameters": said}) == {"prompt": "a cat", "steps": 5, "seed": 3}


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"prompt": "[" * 100_000},
        {"prompt": json.dumps([1, 2])},
        {"prompt": json.dumps({"1": 3, "2": {"class_type": "KSampler"}})},
        {"prompt": json.dumps({"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0]}}})},
        {"invokeai_metadata": "null"},
        {"invokeai_metadata": json.dumps({"positive_prompt": "", "seed": [1]})},
        {"parameters": ""},
        {"parameters": 3},
    ],
)
def test_what_tells_nothing_is_empty(texts):
    assert options_of(texts) == {}


def test_what_cannot_be_read_is_left_out():
    said = "a cat\nSteps: many, Sampler: Turbo 9000, CFG scale: 7, Seed: -0x1, Size: 5xL"
    assert options_of({"parameters": said}) == {"prompt": "a cat", "guidance_scale": 7.0}
    assert options_of({"parameters": "only a text"}) == {"prompt": "only a text"}
