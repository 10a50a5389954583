"""sfumato explain: what is shown is what happened, nothing is changed by looking, and the page
works without a network.
"""

import base64
import gzip
import html
import io
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.conftest import make_tiny

from sfumato import layers
from sfumato.cli import main
from sfumato.condition.text import NoText
from sfumato.errors import OptionError
from sfumato.hub.config import Defaults
from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create, stream
from sfumato.tasks.explain import trace as traces
from sfumato.tasks.explain.compared import linear_decoder
from sfumato.tasks.explain.experiments import explain, steps
from sfumato.tasks.explain.page import write
from sfumato.tasks.explain.trace import record, trace, words
from sfumato.train.diffusion import train_diffusion

HEADLESS = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def model(tiny):
    return load(str(tiny))


@pytest.fixture(scope="module")
def bundled():
    return load("icons")


def options(**given):
    return CreateOptions(**{"seed": 3, "steps": 3, **given})


GIVEN = [
    {},
    {"best_of": 5, "batch": 2},
    {"sampler": "heun"},
    {"sampler": "euler_ancestral"},
    {"guidance_scale": 1},
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_looking_changes_nothing(model, given):
    told = trace("a red apple", options(**given), model)
    made = create("a red apple", options(**given), model)[0]
    assert np.array_equal(np.asarray(told.made.picture), np.asarray(made.picture))
    assert told.made.settings == made.settings
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.denoiser.modules())


def as_numbers(told):
    return {name: value.clone() for name, value in told.tensors().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_runs_of_one_model_do_not_see_each_other(model):
    """Two traces and a plain run, their steps in turns."""
    runs = [("a red apple", {"seed": 3}), ("a blue house", {"seed": 4, "sampler": "heun"})]
    alone = [trace(prompt, options(**given), model) for prompt, given in runs]
    plain = np.asarray(create("a fox", options(), model)[0].picture)
    streams = [record(prompt, options(**given), model) for prompt, given in runs] + [
        stream("a fox", options(), model)
    ]
    last = [None] * 3
    for events in zip_longest(*streams):
        last = [event or before for event, before in zip(events, last, strict=True)]
    assert all(
        same(as_numbers(told), as_numbers(other)) for told, other in zip(last, alone, strict=False)
    )
    assert [np.asarray(told.made.picture).tolist() for told in last[:2]] == [
        np.asarray(told.made.picture).tolist() for told in alone
    ]
    assert np.array_equal(np.asarray(last[2].picture), plain)


def test_runs_of_one_model_in_threads(model):
    alone = {seed: trace("a red apple", options(seed=seed), model) for seed in range(4)}
    with ThreadPoolExecutor(4) as pool:
        traced = [pool.submit(trace, "a red apple", options(seed=seed), model) for seed in range(4)]
        made = [pool.submit(create, "a red apple", options(seed=seed), model) for seed in range(4)]
        for seed, (told, plain) in enumerate(zip(traced, made, strict=True)):
            assert same(as_numbers(told.result()), as_numbers(alone[seed]))
            assert np.array_equal(
                np.asarray(plain.result()[0].picture), np.asarray(alone[seed].made.picture)
            )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.denoiser.modules())


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm2", "dpmpp_2m", "unipc", "dpmpp_2m_sde"])
def test_the_steps_follow_from_one_another(model, sampler):
    told = trace("a red apple", options(sampler=sampler, guidance_scale=4.0), model)
    assert [look.index for look in told.steps] == [0, 1, 2]
    assert [look.sigma for look in told.steps] == pytest.approx(
        told.made.settings["sigmas"][:-1], abs=1e-5
    )
    for look, following in zip(told.steps, told.steps[1:], strict=False):
        assert torch.equal(look.after, following.x)
    for look in told.steps:
        mixed = look.negative + 4.0 * (look.positive - look.negative)
        assert torch.allclose(mixed, look.denoised, atol=1e-5)
        assert -1 <= look.guidance_cosine < 1
    if sampler == "euler":
        look = told.steps[0]
        assert torch.allclose(
            look.denoised + told.steps[1].sigma * look.noise(look.denoised), look.after, atol=1e-4
        )


def test_without_guidance_there_is_one_estimate(model):
    told = trace("a red apple", options(guidance_scale=1), model)
    assert all(
        look.negative is None
        and look.guidance_cosine == 1
        and torch.equal(look.positive, look.denoised)
        for look in told.steps
    )
    assert "negative" not in told.tensors()


def test_attention_is_that_of_the_layers(model, monkeypatch):
    """The weights that fused kernels hide, against those that the layers themselves multiply
    with.
    """
    used = []

    def attend(q, k, v):
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        if k.shape[-2] == 16:  # tokens
            used.append(weights[0])
        return weights @ v

    monkeypatch.setattr(layers, "attend", attend)
    told = trace(
        "a red apple", options(steps=1, guidance_scale=1, sampler="euler", size="24x16"), model
    )
    found, places = told.steps[0].attention, [w.place for w in told.words]
    assert found.shape == (len(told.layers), len(told.words) + 1, 8, 12)
    assert len(used) == len(told.layers) == 4
    heads = told.steps[0].heads
    assert heads.shape == (4, used[0].shape[0], *found.shape[1:]) and heads.shape[1] > 1
    for layer, (mine, theirs) in enumerate(zip(found, used, strict=True)):
        every = 1 if theirs.shape[1] == 96 else 2
        size = (8 // every, 12 // every)
        mean = theirs.mean(dim=0)[:, places].T.unflatten(1, size)
        assert torch.allclose(mine[:-1, ::every, ::every], mean, atol=1e-6)
        each = theirs[:, :, places].transpose(1, 2).unflatten(2, size)
        assert torch.allclose(heads[layer, :, :-1, ::every, ::every], each, atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(len(told.layers), 8, 12), atol=1e-5)
    assert found[:, :-1].std() > 0


def test_large_latents_give_small_maps(model):
    told = trace("a red apple", options(size="80x48", steps=1), model)
    assert told.steps[0].x.shape[1:] == (24, 40)
    assert told.steps[0].attention.shape[2:] == (6, 10)
    assert told.steps[0].heads.numel() == 0
    assert torch.allclose(told.steps[0].attention.sum(dim=1), torch.ones(()), atol=1e-5)
    assert [name.split(", ")[1] for name in told.layers] == ["40x24", "20x12", "40x24", "40x24"]


def test_words_are_what_the_model_sees(model):
    said = words(model.text, "a (red:1.5) " + "apple " * 14)
    assert [w.piece for w in said][:4] == ["<start>", "a", "red", "apple"]
    assert [w.weight for w in said][:4] == [1, 1, 1.5, 1]
    assert [w.place for w in said] == [*range(16), *range(16, 20)], (
        "two chunks of 14 tokens and 2 marks"
    )
    assert [w.piece for w in said].count("<end>") == 2
    assert words(NoText(), "a") == []
    told = trace("a red apple", options(steps=1, negative_prompt="fox " * 30), model)
    assert torch.allclose(told.steps[0].attention.sum(dim=1), torch.ones(()), atol=1e-5)


def test_a_model_of_pixels(tmp_path):
    pixels = load(
        str(
            make_tiny(
                tmp_path / "pixels",
                Defaults(steps=2, guidance_scale=3.0),
                pixels=True,
                in_channels=3,
                out_channels=3,
            )
        )
    )
    found = explain("a red apple", options(steps=2), pixels)
    assert found.runs[0].reconstruction is None
    matrix, share = found.linear
    assert torch.equal(matrix, torch.eye(4)[:, :3]) and share == 1
    assert len(found.runs[0].guesses) == 2


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A model of gray pictures of 28x28 pixels, trained here on two kinds of them."""
    folder = tmp_path_factory.mktemp("digits")
    data = folder / "data"
    data.mkdir()
    for k in range(16):
        picture = Image.new("L", (28, 28))
        picture.paste(255, (4, 12, 24, 16) if k % 2 else (12, 4, 16, 24))
        picture.save(data / f"{k}.png")
        (data / f"{k}.txt").write_text("a minus" if k % 2 else "a one")
    config = folder / "config.json"
    config.write_text(
        json.dumps(
            {
                "size": 28,
                "network": {
                    "in_channels": 1,
                    "out_channels": 1,
                    "sample_size": 28,
                    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                    "block_out_channels": [32, 32],
                    "layers_per_block": 1,
                    "attention_head_dim": 4,
                },
                "settings": {"steps": 120, "batch": 8, "learning_rate": 0.003, "warmup": 5},
                "defaults": {"steps": 8, "guidance_scale": 2.0},
                "previews": [],
            }
        )
    )
    made = folder / "model"
    list(
        train_diffusion(data, made, None, Path("icons"), config, {"dtype": "float32"}, pixels=True)
    )
    return load(str(made))


def test_a_model_of_gray_pictures_that_was_trained_here(digits, tmp_path):
    found = explain("a one", options(steps=8), digits)
    run = found.runs[0]
    assert run.trace.steps[0].x.shape == (1, 28, 28)
    assert run.trace.made.picture.size == (28, 28)
    values = np.asarray(run.trace.made.picture).astype(int)
    assert (values[..., 0] == values[..., 2]).all(), "gray"
    # it has learned which is which: upright or lying
    upright, lying = values[4:24, 12:16, 0].mean(), values[12:16, 4:24, 0].mean()
    other = np.asarray(create("a minus", options(steps=8), digits)[0].picture).astype(int)
    assert upright > lying and other[12:16, 4:24, 0].mean() > other[4:24, 12:16, 0].mean()
    matrix, share = found.linear
    assert torch.equal(matrix, torch.tensor([[1.0] * 3, [0.0] * 3])) and share == 1
    found.write(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_what_a_model_of_gray_pictures_fills_in(digits, tmp_path):
    """A picture is continued where it is hidden, and stays elsewhere: as an explanation, too."""
    picture = Image.new("L", (28, 28))
    picture.paste(255, (12, 4, 16, 24))
    picture.save(tmp_path / "one.png")
    mask = Image.new("L", (28, 28))
    mask.paste(255, (0, 14, 28, 28))
    mask.save(tmp_path / "mask.png")
    given = {"source": str(tmp_path / "one.png"), "mask": str(tmp_path / "mask.png")}
    run = explain("a one", options(steps=8, strength=1.0, **given), digits).runs[0]
    made = np.asarray(run.trace.made.picture.convert("L")).astype(int)
    assert (made[:14] == np.asarray(picture)[:14]).all()


def test_a_random_model_of_the_shape_of_stable_diffusion(tmp_path):
    """Four levels, three of which look at the text, eight heads each, latents of four channels."""
    shape = {
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 2,
        "attention_head_dim": 8,
    }
    found = explain(
        "a red apple",
        options(steps=2, size=(16, 16)),
        load(str(make_tiny(tmp_path / "sd", **shape))),
    )
    run = found.runs[0]
    assert len(run.trace.steps[0].attention) > 10 and run.reconstruction is not None
    found.write(tmp_path / "page.html")


def test_experiments_are_what_they_say(model):
    found = explain(["a red apple", "a blue house"], options(), model)
    run = found.runs[0]
    for guess, look in zip(run.guesses, run.trace.steps, strict=True):
        z = run.trace.steps[-1].after
        assert guess.sigma == look.sigma
        guessed, true = ((guess.noisy - clean) / guess.sigma for clean in (guess.guess, z))
        assert guess.error == pytest.approx(float((guessed - true).square().mean()), rel=1e-3)
    noise = [(g.noisy - run.trace.steps[-1].after) / g.sigma for g in run.guesses]
    assert torch.allclose(noise[0], noise[-1], atol=1e-3), "the same noise at every level"
    assert np.array_equal(
        np.asarray(run.decoded[-1]["denoised"]), np.asarray(run.trace.made.picture)
    ), "the last step ends at its estimate"
    assert found.apart[0].max() == 0 < found.apart[1, -1]
    assert found.apart[1, 0] == 0, "the same noise"
    assert [way.shape for way in found.map] == [(4, 2)] * 2
    assert (
        len(
            {
                r.trace.made.settings["candidate"]
                for r in explain(["a", "b"], options(best_of=4, steps=1), model, light=True).runs
            }
        )
        == 1
    )


def test_light_decodes_nothing(model):
    found = explain("a red apple", options(), model, light=True)
    assert (found.runs[0].decoded, found.runs[0].guesses, found.runs[0].reconstruction) == (
        [],
        [],
        None,
    )


def test_large_pictures_are_decoded_once_a_step(model):
    assert {
        tuple(d) for d in explain("a", options(size="144x16", steps=1), model).runs[0].decoded
    } == {("denoised",)}


def test_linear_decoder_finds_a_linear_one():
    torch.manual_seed(0)
    z, matrix = torch.randn(3, 2, 4, 5), torch.randn(3, 12)
    seen = torch.cat([z, torch.ones(3, 1, 4, 5)], dim=1)
    pixels = torch.nn.functional.pixel_shuffle(torch.einsum("nchw,cp->nphw", seen, matrix), 2)
    found, share = linear_decoder(z, pixels)
    assert torch.allclose(found, matrix, atol=0.02)
    assert share > 0.999
    assert linear_decoder(z, torch.randn(3, 3, 8, 10))[1] < 0.5


def test_a_trace_is_saved_whole(model, tmp_path):
    told = trace("a (red:1.2) apple", options(), model)
    told.save(tmp_path / "t")
    about, tensors = (
        json.loads((tmp_path / "t" / "trace.json").read_text("utf-8")),
        load_file(tmp_path / "t" / "trace.safetensors"),
    )
    assert about["schema"] == traces.SCHEMA
    assert about["settings"]["prompt"] == "a (red:1.2) apple"
    assert [w["weight"] for w in about["words"]] == [1, 1, 1.2, 1, 1]
    assert tensors["attention"].shape == (3, 4, 6, 8, 8)
    assert torch.allclose(
        tensors["negative"] + 3.0 * (tensors["positive"] - tensors["negative"]),
        tensors["denoised"],
        atol=1e-5,
    )


def test_refused(model):
    for wrong in ["a"] * 7, []:
        with pytest.raises(OptionError, match="1 to 6"):
            explain(wrong, options(), model)
    with pytest.raises(OptionError, match="one picture"):
        trace("a", options(count=2), model)
    with pytest.raises(OptionError, match="multiples"):
        next(steps("a", options(size="15x16"), model))


def test_command(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["sfumato", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    common = ("--model", tiny, "--steps", 2, "--seed", 1)
    assert run("explain", "a red apple", *common)[:2] == (0, "explained.html")
    before = (tmp_path / "explained.html").read_bytes()
    for words_, sentence in (
        (("a", *common), "--overwrite"),
        ((*common, "--output", "x.html"), "no prompt"),
        (("a", *common, "--output", "x.png"), "ends in .html"),
        (("a", *common, "--output", "x.html", "--strength", 0.5), "--from"),
        (("a", *common, "--output", "x.html", "--trace", "explained.html"), "is a file"),
        (("--again", tmp_path / "none.png", "--output", "x.html"), "does not exist"),
    ):
        code, _, err = run("explain", *words_)
        assert (code, sentence in err) == (2, True), err
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "trace.json").write_text("mine")
    code, _, err = run("explain", "a", *common, "--output", "x.html", "--trace", "precious")
    assert code == 2 and "precious is not empty" in err
    shutil.rmtree(tmp_path / "precious")
    assert (tmp_path / "explained.html").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["explained.html"]
    assert run("create", "a red apple", *common, "--output", "a.png")[0] == 0
    code, out, _ = run(
        "explain",
        "--again",
        "a.png",
        "a blue house",
        "--output",
        "b.html",
        "--trace",
        "t",
        "--json",
        "--light",
    )
    assert code == 0
    assert [r["settings"]["prompt"] for r in json.loads(out)["runs"]] == [
        "a red apple",
        "a blue house",
    ]
    assert (tmp_path / "t" / "1" / "picture.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "t" / "2" / "trace.json").exists()


def test_the_page_needs_nothing_and_believes_nothing(model, tmp_path):
    evil = '</script><script>document.title="evil"</script><!--PROGRAM-->'
    found = explain(evil, options(steps=1), model, light=True)
    write(found, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text("utf-8")
    assert set(re.findall(r"\b\w+://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}, (
        "a name of a format, no address"
    )
    assert page.count("</script>") == 2
    assert html.escape(evil) in page and evil not in page
    assert unpacked(page)[0]["runs"][0]["prompt"] == evil


def test_the_page_holds_the_trace(model, tmp_path):
    found = explain("a red apple", options(), model)
    write(found, tmp_path / "p.html")
    said, archive = unpacked((tmp_path / "p.html").read_text("utf-8"))
    run, look = said["runs"][0], found.runs[0].trace.steps[1]
    assert np.array_equal(
        archive(run["steps"][1]["latents"]["positive"], "<f2"),
        look.positive.numpy().astype("<f2").ravel(),
    )
    assert "negative" not in run["steps"][1]["latents"], "it follows from the others"
    with Image.open(
        io.BytesIO(archive(run["steps"][1]["pictures"]["denoised"], "u1").tobytes())
    ) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(found.runs[0].decoded[1]["denoised"]))
    for held, wanted in (
        (run["attention"], look.attention),
        (run["attention"]["heads"], look.heads),
    ):
        maps = archive(held["maps"], "u1").reshape(held["shape"]) / 255 * held["top"]
        assert np.abs(maps[1] ** 2 - wanted.numpy()).max() < 0.005
    other = explain("a red apple", options(guidance_rescale=0.9), model, light=True)
    write(other, tmp_path / "q.html")
    assert (
        "negative"
        in unpacked((tmp_path / "q.html").read_text("utf-8"))[0]["runs"][0]["steps"][1]["latents"]
    ), "it does not follow"


def test_a_long_prompt_makes_no_long_page(model, tmp_path):
    found = explain("apple " * 100, options(steps=1), model, light=True)
    write(found, tmp_path / "p.html")
    said, archive = unpacked((tmp_path / "p.html").read_text("utf-8"))
    run = said["runs"][0]
    assert (
        len(run["words"]) == 100 + 2 * 8
        and run["attention"]["shape"][2] == 81
        and len(run["cosines"]) == 80
    )
    maps = (
        archive(run["attention"]["maps"], "u1").reshape(run["attention"]["shape"])
        / 255
        * run["attention"]["top"]
    ) ** 2
    assert maps.sum(axis=2) == pytest.approx(1, abs=0.05)


def unpacked(page):
    """The page's text, and a function that reads what it refers to."""
    whole = gzip.decompress(base64.b64decode(re.search(r'id="data">(.*?)</script>', page, re.S)[1]))
    length = int.from_bytes(whole[:4], "little")
    return json.loads(whole[4 : 4 + length]), lambda ref, kind: np.frombuffer(
        whole[4 + length + ref[1] :][: ref[2]], kind
    )


@pytest.mark.skipif(HEADLESS is None, reason="no Chromium here")
@pytest.mark.parametrize("light", [False, True])
def test_the_page_in_a_browser(bundled, tmp_path, light):
    found = explain(["a red apple", "a green apple"], options(seed=7), bundled, light=light)
    write(found, tmp_path / "p.html")
    page, said = (tmp_path / "p.html").read_text("utf-8"), tmp_path / "q.html"
    acts = """<script type="module">
      const errors = []; window.onerror = (what) => errors.push(String(what)); const notes = {};
      const ready = () => document.getElementById("where").textContent || errors.length;
      while (!ready()) await new Promise((on) => setTimeout(on, 20));
      try {
        notes.begun = document.getElementById("where").textContent;
        const scrub = document.getElementById("scrub"); scrub.value = 2;
        scrub.dispatchEvent(new Event("input"));
        document.getElementById("back").click();
        notes.step = document.getElementById("where").textContent;
        document.querySelectorAll("#words button")[2].click();
        notes.word = document.querySelector("#words button[aria-pressed=true]").textContent;
        const slider = document.getElementById("scale");
        notes.before = document.getElementById("sum").textContent;
        slider.value = 9; slider.dispatchEvent(new Event("input"));
        notes.after = document.getElementById("sum").textContent;
        document.querySelectorAll("#pictures button")[1].click();
        notes.prompt = document.getElementById("prompt").textContent;
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
        notes.left = document.getElementById("where").textContent;
        notes.nan = document.body.innerText.includes("NaN") ||
          document.body.innerText.includes("undefined");
        notes.wide = document.documentElement.scrollWidth > window.innerWidth;
        const named = (n) => n.textContent || n.ariaLabel || n.labels?.length;
        const controls = [...document.querySelectorAll("button, input, select")];
        notes.unnamed = controls.filter((n) => !named(n)).length;
        notes.hidden =
          [...document.querySelectorAll("section")].filter((s) => s.hidden).map((s) => s.id);
      } catch (error) { errors.push(String(error)); }
      document.body.innerHTML = "";
      document.body.textContent = JSON.stringify({ errors, ...notes });
    </script>"""
    said.write_text(page.replace("</body>", acts + "</body>"), "utf-8")
    ways = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=390,800",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]
    dom = subprocess.run(
        [HEADLESS, *ways, said.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    notes = json.loads(
        re.search(r"<body>(\{.*\})\s*</body>", dom, re.S)[1]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    assert notes["errors"] == []
    begun = 1 + max(range(3), key=lambda k: found.runs[0].trace.steps[k].change)
    assert notes["begun"].startswith(f"step {begun} of 3"), "where the text changes most"
    assert notes["step"].startswith("step 2 of 3") and notes["left"].startswith("step 1 of 3")
    assert notes["word"].startswith("red")
    assert "D− + 4.0 (D+ − D−)" in notes["before"] and "D− + 9.0 (D+ − D−)" in notes["after"]
    value = {
        k: re.search(rf"^{re.escape(k)}.*? ([−\d.]+)(?:   .*)?$", notes["after"], re.M)[1].replace(
            "−", "-"
        )
        for k in ("D−  ", "D+  ", "D = ")
    }
    minus, plus, mixed = map(float, value.values())
    told = next(
        float(re.search(r"([−\d.]+)$", line)[1].replace("−", "-"))
        for line in notes["before"].splitlines()
        if line.startswith("D = ")
    )
    look = explain("a red apple", options(seed=7), bundled, light=True).runs[0].trace.steps[1]
    for shown, true in ((minus, look.negative), (plus, look.positive), (told, look.denoised)):
        assert shown == pytest.approx(float(true[0, 4, 4]), abs=2e-3)
    assert mixed == pytest.approx(minus + 9 * (plus - minus), abs=0.01)
    assert notes["prompt"] == "a green apple"
    assert not notes["nan"] and not notes["wide"] and notes["unnamed"] == 0
    assert notes["hidden"] == (["s-guess", "s-reconstruction"] if light else [])


def test_a_picture_to_begin_with(model, tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "r.png")
    told = trace("a red apple", options(source=str(tmp_path / "r.png"), strength=0.5), model)
    assert told.steps[0].sigma < trace("a red apple", options(), model).steps[0].sigma
    write(
        explain("a", options(source=str(tmp_path / "r.png")), model, light=True),
        tmp_path / "p.html",
    )
    assert unpacked((tmp_path / "p.html").read_text("utf-8"))[0]["runs"][0]["source"]


def test_what_is_known_is_held_to_at_every_step(model, tmp_path):
    Image.new("RGB", (18, 16), "red").save(tmp_path / "r.png")
    mask = Image.new("L", (18, 16))
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "m.png")
    given = options(source=str(tmp_path / "r.png"), mask=str(tmp_path / "m.png"), strength=1.0)
    found = explain("a red apple", given, model)
    told = found.runs[0].trace
    assert told.made.picture.size == (18, 16)
    for look in told.steps:
        mixed = look.negative + told.scale * (look.positive - look.negative)
        assert torch.allclose(mixed[..., :4], look.denoised[..., :4], atol=1e-5)
        assert torch.allclose(
            look.denoised[..., 4:8], told.steps[0].denoised[..., 4:8], atol=1e-5
        ), "what is known is the same at every step"
        assert not torch.allclose(mixed[..., 4:8], look.denoised[..., 4:8], atol=1e-2)
    found.write(tmp_path / "p.html")
    said, archive = unpacked((tmp_path / "p.html").read_text("utf-8"))
    assert "negative" in said["runs"][0]["steps"][0]["latents"], "it does not follow"
    there = said["runs"][0]["reconstruction"]
    assert there["shape"] == [4, 8, 9] and len(archive(there["z"], "<f2")) == 4 * 8 * 9, (
        "of the picture as it is shown"
    )


def test_explain_says_what_create_says(run, tiny, tmp_path):
    """Notes about the words; and the name of a picture is no text."""
    said = []
    for command, output in (("create", "a.png"), ("explain", "page.html")):
        light = ["--light"] if command == "explain" else []
        code, _, told = run(command, "дом и кошка", "--steps", "1", *light, "--output", output)
        assert code == 0
        said.append(
            [line for line in told.split("\n") if "the model seems to know no word" in line]
        )
    assert len(said[0]) == 1 and said[0] == said[1]
    Image.new("RGB", (8, 8)).save(tmp_path / "apple.png")
    code, _, said = run("explain", str(tmp_path / "apple.png"), "--model", str(tiny))
    assert code == 2 and "to explain it, give --again" in said
    code, _, said = run("explain", "x", "--change", "seed=1,seed=2", "--model", str(tiny))
    assert code == 2 and "gives seed twice" in said


def test_a_shorter_text_and_no_guidance_from_a_step_on(tmp_path):
    """The first text has two chunks of tokens, the text from step 2 on has one."""
    options = CreateOptions(seed=1, steps=3, then_step=2, then="a dog", then_guidance_scale=1)
    made = explain("cat " * 40, options)
    made.write(tmp_path / "e.html")
    trace = made.runs[0].trace
    assert len({step.attention.shape for step in trace.steps}) == 1
    trace.save(tmp_path / "trace")
