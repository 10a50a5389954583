"""Training: data in every layout, resumption bit for bit after kill -9, and a NaN named by step and
layer.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.conftest import VAE
from torch import nn

from sfumato import image
from sfumato.cli.train import _train
from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.data import samples as data
from sfumato.denoiser.restorer import RestorerConfig
from sfumato.errors import ConfigError, DataError, OptionError, SfumatoError, TrainingError
from sfumato.hub.config import SchedulerConfig
from sfumato.hub.describe import describe
from sfumato.hub.files import CHECKPOINT, network_from
from sfumato.hub.load import load
from sfumato.hub.save import save_scheduler
from sfumato.space.kl import AutoencoderConfig
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.train.autoencoder import AutoencoderJob, train_autoencoder
from sfumato.train.checkpoint import State
from sfumato.train.diffusion import DiffusionJob, train_diffusion
from sfumato.train.latents import Latents, cached
from sfumato.train.loop import train
from sfumato.train.match import train_matcher
from sfumato.train.pack import pack
from sfumato.train.plan import read_plan, text_encoder
from sfumato.train.restoration import train_restorer
from sfumato.train.restorer import RestorerJob, read_photos
from sfumato.train.settings import TrainSettings
from sfumato.train.text import train_text

COLORS = ("red", "green", "blue", "gold", "black", "white")


def encoded(color):
    stream = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six plain pictures with captions in metadata.jsonl, and one broken file."""
    place = tmp_path / "data"
    place.mkdir()
    for color in COLORS:
        (place / f"{color}.png").write_bytes(encoded(color))
    (place / "broken.png").write_bytes(encoded("red")[:40])
    rows = [{"file_name": f"{c}.png", "text": f"a {c} square"} for c in (*COLORS, "broken")]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def captions(found):
    return {s.name.rsplit("/", 1)[-1].split(".")[0]: s.captions for s in found}


def test_metadata_and_broken_pictures(folder, tmp_path):
    packed = pack(folder, 16, tmp_path / "cache", captions=True)
    assert packed.pixels.shape == (6, 3, 16, 16), (
        "no black pictures in place of those that were skipped"
    )
    assert ("a red square",) in packed.captions
    assert len(packed.captions) == 6
    assert len(packed.skipped) == 1
    assert packed.skipped[0].startswith("broken.png: ")
    before = (tmp_path / "cache" / "pictures.npy").stat().st_mtime_ns
    pack(folder, 16, tmp_path / "cache", captions=True)
    assert (tmp_path / "cache" / "pictures.npy").stat().st_mtime_ns == before, "packed once"


def test_other_layouts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    side = tmp_path / "side"
    classes = tmp_path / "classes" / "red_fruit"
    for place in (side, classes):
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(encoded("red"))
    (side / "a.txt").write_text("a red thing\n")
    csv = tmp_path / "csv"
    csv.mkdir()
    (csv / "a.png").write_bytes(encoded("red"))
    (csv / "metadata.csv").write_text("file_name,text\na.png,from csv\n")
    pq.write_table(
        pa.table({"image": [encoded("red")], "caption": ["from parquet"], "weight": [2.5]}),
        tmp_path / "p.parquet",
    )
    pq.write_table(
        pa.table({"image": [{"bytes": encoded("red"), "path": "x"}], "text": [["one", "two"]]}),
        tmp_path / "q.parquet",
    )
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, content in (
            ("../evil/a.png", encoded("red")),
            ("../evil/a.txt", b"from tar"),
            ("b.jpg", b"x"),
            ("b.json", b'{"caption": "j"}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert captions(data.find(side)) == {"a": ("a red thing",)}
    assert captions(data.find(tmp_path / "classes")) == {"a": ("red fruit",)}
    assert captions(data.find(csv)) == {"a": ("from csv",)}
    assert [(s.captions, s.weight) for s in data.find(tmp_path / "p.parquet")] == [
        (("from parquet",), 2.5)
    ]
    assert [s.captions for s in data.find(tmp_path / "q.parquet")] == [("one", "two")]
    assert image.read(data.find(tmp_path / "q.parquet")[0].read()).size == (20, 16)
    assert [s.captions for s in data.find(tmp_path / "w.tar")] == [("from tar",), ("j",)]
    assert not (tmp_path.parent / "evil").exists()


def test_links_and_dots_and_names_that_are_no_utf8(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(encoded("red"))
    place = tmp_path / "data"
    place.mkdir()
    (place / "linked").symlink_to(tmp_path / "elsewhere")
    (place / "round").symlink_to(place)
    (place / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded("red"))
    assert [s.name for s in data.find(place)] == ["caf\\xe9.png", "linked/a.png"]
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        member = tarfile.TarInfo("photo.v1.png")
        member.size = len(encoded("red"))
        tar.addfile(member, io.BytesIO(encoded("red")))
    assert [s.name for s in data.find(tmp_path / "w.tar")] == ["photo.v1"]


def test_what_cannot_be_used(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "a.png").write_bytes(encoded("red"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="holds no pictures"):
        data.find(empty)
    with pytest.raises(DataError, match="has no captions; add metadata"):
        pack(bare, 16, tmp_path / "c", captions=True)
    for name in ("x.parquet", "x.tar", "none", "x.zip"):
        with pytest.raises(DataError):
            data.find(tmp_path / name)


class Line:
    """The smallest job: fit a line to noise."""

    def __init__(self, rows=50):
        torch.manual_seed(0)
        self.module = nn.Sequential(
            nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )
        self.weights = torch.ones(rows)
        self.spoil_at = None

    def loss(self, rows, random):
        x = torch.randn(len(rows), 4, generator=random)
        if self.spoil_at is not None:
            self.spoil_at -= 1
            if self.spoil_at < 0:
                self.module[0].bias.data[0] = float("nan")
        return (self.module(x) - x.sum(1, keepdim=True)).square().mean()

    def preview(self):
        return Image.new("RGB", (4, 4))


SETTINGS = TrainSettings(
    steps=60,
    batch=8,
    learning_rate=1e-2,
    warmup=5,
    checkpoint_every=7,
    preview_every=1000,
    dtype="float32",
    device="cpu",
)


class Kernels(Line):
    """The same with convolutions whose weights lie in memory channels last, as a restorer's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = (
            nn.Unflatten(1, (4, 1, 1)),
            nn.Conv2d(4, 48, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(48, 40, 3, padding=1),
            nn.Flatten(),
            nn.Linear(40, 1),
        )
        self.module = nn.Sequential(*layers)
        for p in self.module.parameters():
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data


@pytest.mark.parametrize("kind", [Line, Kernels])
@pytest.mark.parametrize(
    ("optimizer", "ema_decay"), [("adamw", 0.999), ("muon", 0.999), ("adamw", 0)]
)
def test_training_learns_and_stopping_resumes_bitwise(tmp_path, optimizer, ema_decay, kind):
    whole, halves = kind(), kind()
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "ema_decay": ema_decay})
    losses = [p.loss for p in train(whole, settings, tmp_path / "a")]
    assert losses[-1] < losses[0] * 0.75  # a moving average: it lags
    for progress in train(halves, settings, tmp_path / "b"):
        if progress.step == 23:
            break
    again = kind()
    resumed = [p.step for p in train(again, settings, tmp_path / "b")]
    assert resumed[0] == 24
    for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_to_draw_is_one_sentence():
    job = Line()
    job.weights = torch.zeros(5)
    with pytest.raises(TrainingError, match="all sampling weights are 0"):
        next(train(job, SETTINGS))


def test_other_settings_are_refused(tmp_path):
    list(train(Line(), SETTINGS, tmp_path))
    with pytest.raises(TrainingError, match="other settings"):
        list(train(Line(), SETTINGS.model_copy(update={"learning_rate": 1.0}), tmp_path))


def test_another_run_is_refused(tmp_path):
    own = {"corruption": "noise:25", "data": "abc"}
    list(train(Line(), SETTINGS, tmp_path, own))
    for about, sentence in (
        ({"corruption": "gray", "data": "abc"}, "its corruption was noise:25, now it is gray"),
        ({"data": "x"}, "its data were other files"),
        ({"data": "abc"}, "its corruption was noise:25, now it is None"),
        ({**own, "teacher": "x"}, "its teacher was None, now it is x"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            list(train(Line(), SETTINGS, tmp_path, about))
    wider = Line()
    wider.module = nn.Sequential(
        nn.Linear(4, 33), nn.Tanh(), nn.Linear(33, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    with pytest.raises(TrainingError, match="of shape"):
        list(train(wider, SETTINGS, tmp_path, own))


def test_an_interrupt_within_a_step_leaves_no_half_step_behind(tmp_path, monkeypatch):
    whole = Line()
    list(train(whole, SETTINGS, tmp_path / "a"))
    update, calls = State.update_average, []

    def interrupted(self, decay):
        calls.append(1)
        if len(calls) == 23:
            raise KeyboardInterrupt
        update(self, decay)

    monkeypatch.setattr(State, "update_average", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(train(Line(), SETTINGS, tmp_path / "b"))
    again = Line()
    list(train(again, SETTINGS, tmp_path / "b"))
    for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupt_while_a_step_is_computed_loses_none_before_it(tmp_path):
    class Stopped(Line):
        def loss(self, rows, random):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 13:
                raise KeyboardInterrupt
            return super().loss(rows, random)

    with pytest.raises(KeyboardInterrupt):
        list(train(Stopped(), SETTINGS, tmp_path))
    with safe_open(tmp_path / CHECKPOINT, "pt") as kept:
        assert kept.metadata()["step"] == "12"


def test_a_cache_is_continued_after_an_interruption(tmp_path):
    asked = []

    def rows(start, end):
        asked.append((start, end))
        return torch.arange(start, end)[:, None].float()

    path = tmp_path / "cache" / "rows.npy"
    run = cached(path, "a", (7, 1), rows, batch=2)
    assert [next(run), next(run)] == [2, 4]
    run.close()
    assert list(cached(path, "a", (7, 1), rows, batch=2)) == [6, 7]
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert np.load(path).ravel().tolist() == list(range(7))
    assert list(cached(path, "a", (7, 1), rows)) == []
    earlier = np.load(path, mmap_mode="r")
    assert list(cached(path, "b", (7, 1), lambda start, end: -rows(start, end))) == [7]
    assert np.load(path).ravel().tolist() == [-k for k in range(7)], "another key: all anew"
    assert earlier.ravel().tolist() == list(range(7)), "a run that reads the old rows goes on"
    (tmp_path / "cache" / "rows.json").write_text('{"key": "b"}')  # as an older version wrote it
    assert list(cached(path, "b", (7, 1), rows)) == []


def test_a_cache_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        next(cached(tmp_path / "rows.npy", "a", (7, 1), lambda start, end: torch.zeros(7, 1)))
    assert list(tmp_path.iterdir()) == []


def test_caches_are_not_taken_for_other_data(tmp_path, tiny):
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (16, 16), (40 * k + 100 * (name == "dog"),) * 3).save(
                tmp_path / "in" / name / f"{name}{k}.png"
            )

    def found():
        pictures = pack(tmp_path / "in", 16, tmp_path / "cache", captions=True)
        model = load(str(tiny))
        latents = Latents(pictures, model.space, model.text, tmp_path / "cache")
        list(latents.prepare("key", states=True, ends=True))
        ends = {t: model.text.pooled([t])[0] for t in latents.texts}
        assert all(
            torch.allclose(latents.pooled([k])[0], ends[t], atol=0.01)
            for k, t in enumerate(latents.texts)
        )
        fresh = torch.cat(
            [model.space.moments(latents.pixels(torch.tensor([k])))[0] for k in range(5)]
        )
        assert torch.allclose(
            latents.latents(torch.arange(5)), fresh * model.space.config.scaling_factor, atol=0.01
        )
        return sorted(
            (int(p[0, 0, 0]), c[0]) for p, c in zip(pictures.pixels, pictures.captions, strict=True)
        )

    assert found() == [(0, "cat"), (40, "cat"), (80, "cat"), (100, "dog"), (140, "dog")]
    (tmp_path / "in/cat/cat0.png").rename(tmp_path / "in/dog/cat0.png")
    assert found() == [(0, "dog"), (40, "cat"), (80, "cat"), (100, "dog"), (140, "dog")]
    (tmp_path / "in/cat").rename(tmp_path / "in/kitten")
    assert found() == [(0, "dog"), (40, "kitten"), (80, "kitten"), (100, "dog"), (140, "dog")]


def test_nan_names_step_and_layer(tmp_path):
    job = Line()
    job.spoil_at = 9
    with pytest.raises(TrainingError, match=r"step 10: the output of layer 0 is not finite"):
        list(train(job, SETTINGS, tmp_path))
    with safe_open(tmp_path / CHECKPOINT, "pt") as kept:
        assert kept.metadata()["step"] == "7", "what failed is not written over what was whole"


def write_plans(place):
    network = {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    settings = {"steps": 40, "batch": 4, "checkpoint_every": 4, "preview_every": 40, "warmup": 2}
    (place / "vae.json").write_text(
        json.dumps({"network": network, "settings": settings, "size": 16})
    )
    unet = {"block_out_channels": [16, 16], "norm_num_groups": 8, "attention_head_dim": 2}
    (place / "unet.json").write_text(
        json.dumps(
            {"network": unet, "settings": settings, "size": 16, "previews": ["a red square"]}
        )
    )
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
    }
    matcher = {"widths": [16, 16], "blocks": [1, 1], "groups": 4, "width": 8}
    (place / "match.json").write_text(
        json.dumps({"network": matcher, "settings": {**settings, "batch": 16}, "size": 16})
    )
    (place / "text.json").write_text(
        json.dumps({"network": text, "settings": settings, "vocabulary": 560})
    )


def write_phrases(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"a {c} square" for c in COLORS] + list(COLORS)
    vectors = np.random.default_rng(0).normal(size=(len(texts), 24)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 24)
    pq.write_table(
        pa.table({"text": texts, "weight": [1.0] * len(texts), "embedding": column}), path
    )


def test_what_weighs_nothing_is_never_drawn(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [encoded("red"), encoded("blue")]
    pq.write_table(pa.table({"image": pictures, "weight": [0.0, 2.0]}), tmp_path / "w.parquet")
    job = AutoencoderJob(
        AutoencoderConfig(**VAE),
        pack(tmp_path / "w.parquet", 16, tmp_path / "cache", captions=False),
    )
    assert job.weights.tolist() == [0.0, 2.0]
    photos, _, often = read_photos(tmp_path / "w.parquet", 8)
    weights = RestorerJob(
        RestorerConfig(widths=(8, 8)), photos, ["noise:25"], 8, often=often
    ).weights
    assert [bool(w) for w in weights] == [p[0].mean() < 128 for p in photos]  # the blue ones


def test_what_a_run_cannot_begin_with(folder, tmp_path):
    for size, work, sentence in (
        (
            {"size": 28},
            lambda plan: train_autoencoder(folder, tmp_path / "o", plan, {}),
            "multiple of 8, the autoencoder's factor",
        ),
        (
            {"size": 28},
            lambda plan: train_diffusion(folder, tmp_path / "o", None, None, plan, {}, pixels=True),
            "multiple of 8",
        ),
        ({}, lambda plan: train_autoencoder(folder, folder / "model", plan, {}), "lies in"),
        (
            {"vocabulary": 200},
            lambda plan: train_text(folder, tmp_path / "o", plan, {}),
            "vocabulary=200",
        ),
        ({"size": 0}, lambda plan: train_autoencoder(folder, tmp_path / "o", plan, {}), "size=0"),
        (
            {"network": {"norm_num_groups": 7}},
            lambda plan: train_autoencoder(folder, tmp_path / "o", plan, {}),
            "no network can be built from this config",
        ),
        (
            {"network": {"widths": []}},
            lambda plan: train_restorer(folder, tmp_path / "o", "noise:5", plan, {}),
            "no network can be built from this config",
        ),
    ):
        (tmp_path / "p.json").write_text(json.dumps(size))
        with pytest.raises(SfumatoError, match=sentence):
            list(work(tmp_path / "p.json"))
    assert not (folder / "model").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": [1.0, None]}, "none of them empty"),
        ({"text": ["a", None]}, "none of them empty"),
        ({"weight": [1.0, -2.0]}, "finite and at least 0"),
        ({"text": ["red square " * 20] * 2}, "at most 16 tokens"),
        ({"weight": [0.0, 0.0]}, "none of the 2 texts has a weight"),
    ],
)
def test_phrases_that_teach_nothing(tmp_path, change, sentence):
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8, np.float16)), 4)
    pq.write_table(
        pa.table({"text": ["a", "b"], "weight": [1.0, 1.0], "embedding": column} | change),
        tmp_path / "p.parquet",
    )
    write_plans(tmp_path)
    with pytest.raises(DataError, match=sentence):
        list(train_text(tmp_path / "p.parquet", tmp_path / "t", tmp_path / "text.json", {}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_bundled_text_encoder_is_trained_on(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(8, dtype=np.float16).reshape(-1)), 8)
    table = {
        "text": list("abcdefgh"),
        "weight": [1.0] * 8,
        "embedding": column,
        "kept": [True] * 4 + [False] * 4,
    }
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    settings = {"steps": 2, "batch": 4}
    for place in ("t", "again"):
        first = train_text(tmp_path / "p.parquet", tmp_path / place, None, settings, Path("icons"))
        next(first)
        first.close()
    list(train_text(tmp_path / "p.parquet", tmp_path / "t", None, settings, Path("icons")))
    assert (
        text_encoder(tmp_path / "t").pooled(["a"]).shape
        == text_encoder(Path("icons")).pooled(["a"]).shape
    )
    # begun with another encoder's words, gone on with without
    with pytest.raises(TrainingError, match="another run"):
        list(train_text(tmp_path / "p.parquet", tmp_path / "again", None, settings))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_text_encoder_learns_words_and_keeps_its_captions(tiny, tmp_path):
    """A word goes where the teacher puts it, beside a caption; the captions stay."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    captions, said = ["red", "green"], ["crimson", "lime"]
    texts = captions + said
    vectors = np.eye(8, dtype=np.float16)[[0, 1, 0, 1]]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8)
    pq.write_table(
        pa.table(
            {
                "text": texts,
                "weight": [1.0] * 4,
                "embedding": column,
                "kept": [True, True, False, False],
            }
        ),
        tmp_path / "p.parquet",
    )
    (tmp_path / "near.json").write_text(
        json.dumps(
            {
                "settings": {
                    "steps": 150,
                    "batch": 16,
                    "learning_rate": 0.002,
                    "warmup": 5,
                    "cooldown": 0.5,
                }
            }
        )
    )
    list(train_text(tmp_path / "p.parquet", tmp_path / "t", tmp_path / "near.json", {}, Path(tiny)))

    def nearest(encoder):
        ends = torch.nn.functional.normalize(encoder.pooled(texts), dim=1)
        ends = ends - ends.mean(dim=0)
        return ends, (ends[2:] @ ends[:2].T).argmax(dim=1).tolist()

    before, after = load(str(tiny)).text, text_encoder(tmp_path / "t")
    ends, near = nearest(after)
    assert near == [0, 1]
    moved = 1 - torch.nn.functional.cosine_similarity(before.pooled(texts), after.pooled(texts))
    assert moved[:2].max() < 1e-4, "captions stay"
    assert moved[2:].min() > 0.02, "the others move"
    finished = {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()}
    with pytest.raises(TrainingError, match="another run|other settings"):
        list(train_text(tmp_path / "p.parquet", tmp_path / "t", None, {"steps": 3}, Path("icons")))
    assert {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()} == finished, (
        "a run that is refused changes nothing"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_road_from_pictures_to_a_model(folder, tmp_path):
    """Text encoder, autoencoder, diffusion, and a picture from the model that came out."""
    write_plans(tmp_path)
    write_phrases(tmp_path / "phrases.parquet")
    list(train_text(tmp_path / "phrases.parquet", tmp_path / "t", tmp_path / "text.json", {}))
    notes = [
        e
        for e in train_autoencoder(folder, tmp_path / "v", tmp_path / "vae.json", {})
        if isinstance(e, str)
    ]
    assert any("skipped 1 picture:" in n for n in notes)
    list(
        train_diffusion(
            folder, tmp_path / "m", tmp_path / "v", tmp_path / "t", tmp_path / "unet.json", {}
        )
    )
    made = create("a red square", CreateOptions(model=str(tmp_path / "m"), seed=0, steps=3))
    assert made[0].picture.size == (16, 16)
    assert (tmp_path / "m" / "previews" / "0000040.png").exists()
    list(train_matcher(folder, tmp_path / "m", tmp_path / "m", tmp_path / "match.json", {}))
    best = create(
        "a red square", CreateOptions(model=str(tmp_path / "m"), seed=0, steps=3, best_of=3)
    )
    assert best[0].settings["best_of"] == 3
    list(
        train_text(
            tmp_path / "phrases.parquet", tmp_path / "t2", tmp_path / "text.json", {"seed": 5}
        )
    )
    with pytest.raises(TrainingError, match="its encoders was"):
        list(
            train_diffusion(
                folder, tmp_path / "m", tmp_path / "v", tmp_path / "t2", tmp_path / "unet.json", {}
            )
        )
    own = {
        "settings": {"steps": 2, "batch": 4, "preview_every": 2},
        "size": 16,
        "defaults": {"steps": 3},
        "previews": [],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    list(
        train_diffusion(
            folder,
            tmp_path / "on",
            None,
            None,
            tmp_path / "own.json",
            {"learning_rate": 1e-9},
            str(tmp_path / "m"),
        )
    )
    one, other = load(str(tmp_path / "m")), load(str(tmp_path / "on"))
    for name, value in one.network.state_dict().items():
        assert torch.allclose(value, other.network.state_dict()[name], atol=1e-3), (
            "it began where the model stood"
        )
    assert other.space.config.scaling_factor == one.space.config.scaling_factor
    assert other.defaults.steps == 3
    assert torch.equal(one.matcher.to_space.weight, other.matcher.to_space.weight)


@pytest.mark.slow
def test_diffusion_in_pixels(folder, tmp_path):
    """No autoencoder: the same job on pictures as they are; the model learns colors from their
    names, opens, and can be trained on.
    """
    network = {
        "block_out_channels": [16, 32],
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    }
    settings = {
        "steps": 300,
        "batch": 12,
        "learning_rate": 0.004,
        "warmup": 2,
        "ema_decay": 0.9,
        "preview_every": 300,
    }
    (tmp_path / "p.json").write_text(
        json.dumps(
            {
                "network": network,
                "settings": settings,
                "size": 8,
                "defaults": {"steps": 4, "guidance_scale": 1},
            }
        )
    )
    list(
        train_diffusion(
            folder, tmp_path / "m", None, Path("icons"), tmp_path / "p.json", {}, pixels=True
        )
    )
    assert not (tmp_path / "m" / "vae").exists()
    assert describe(str(tmp_path / "m"))["size"] == [8, 8]
    model = load(str(tmp_path / "m"))
    assert (model.size, model.unit) == ((8, 8), 2)
    colors = torch.cat([image.to_tensor(Image.new("RGB", (8, 8), color)) for color in COLORS])
    made = create([f"a {color} square" for color in COLORS], CreateOptions(seed=0), model)
    distance = torch.cdist(
        torch.cat([image.to_tensor(m.picture) for m in made]).flatten(1), colors.flatten(1)
    )
    assert (distance.argmin(dim=1) == torch.arange(len(COLORS))).sum() >= 4
    (tmp_path / "own.json").write_text(
        json.dumps({"settings": {"steps": 2, "batch": 4}, "size": 8})
    )
    list(
        train_diffusion(
            folder, tmp_path / "on", None, None, tmp_path / "own.json", {}, str(tmp_path / "m")
        )
    )
    assert load(str(tmp_path / "on")).size == (8, 8)
    with pytest.raises(OptionError, match="leave out these options"):
        list(
            train_diffusion(
                folder, tmp_path / "no", None, None, None, {}, str(tmp_path / "m"), pixels=True
            )
        )


def test_noise_on_the_states_of_texts(folder, tiny, tmp_path, monkeypatch):
    """A share of their deviation, on captions and not on the empty text; without it the states are
    the text's own.
    """
    model, pictures = load(str(tiny)), pack(folder, 16, tmp_path / "cache", captions=True)
    latents, seen = Latents(pictures, model.space, model.text, tmp_path / "cache"), []
    list(latents.prepare("key", states=True))
    monkeypatch.setattr(
        "sfumato.train.diffusion.denoising_loss",
        lambda denoiser, z, corruption, condition, generator: seen.append(condition.tokens),
    )
    rows = torch.arange(6).repeat(40)
    for share in (0.0, 0.5):
        DiffusionJob(model.network.config, latents, model.scheduler, [], text_noise=share).loss(
            rows, torch.Generator().manual_seed(0)
        )
    own = (
        latents.states([latents.choices[r][0] for r in rows]),
        latents.states([latents.texts.index("")] * len(rows)),
    )
    assert all(any(torch.equal(s, o) for o in pair) for s, *pair in zip(seen[0], *own, strict=True))
    dropped = (seen[1] == own[1]).flatten(1).all(dim=1)
    assert 5 < dropped.sum() < 50, "a tenth has the empty text, as it is"
    noise = (seen[1] - own[0])[~dropped]
    assert float(noise.std()) == pytest.approx(
        0.5 * float(latents.states(range(len(latents.texts))).std()), rel=0.02
    )


def test_a_model_that_is_trained_on_keeps_its_parts(folder, tiny, tmp_path):
    for parts, sentence in (
        ((tmp_path, None, str(tiny)), "leave out these options"),
        ((None, None, None), "give --autoencoder .* or --pixels"),
    ):
        with pytest.raises(OptionError, match=sentence):
            list(train_diffusion(folder, tmp_path / "o", *parts[:2], None, {}, parts[2]))
    assert not (tmp_path / "o").exists()


def test_a_model_is_trained_on_at_another_size(folder, tiny, tmp_path):
    settings = {"steps": 2, "batch": 2, "preview_every": 2}
    (tmp_path / "p.json").write_text(json.dumps({"size": 32, "settings": settings}))
    list(
        train_diffusion(
            folder, tmp_path / "m", None, None, tmp_path / "p.json", {"device": "cpu"}, str(tiny)
        )
    )
    assert load(str(tmp_path / "m")).size == (32, 32)


@pytest.mark.parametrize(
    "given",
    [
        {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "_class_name": "EulerDiscreteScheduler",
        },
        {"use_karras_sigmas": True, "_class_name": "DPMSolverMultistepScheduler"},
        {"_class_name": "DDIMScheduler", "set_alpha_to_one": False},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
        {"_class_name": "UniPCMultistepScheduler"},
        {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True},
    ],
)
def test_a_schedule_is_written_as_it_was_read(given, tmp_path):
    config = SchedulerConfig.from_file(
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **given},
        "here",
    )
    save_scheduler(config, tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert SchedulerConfig.from_file(written, "there") == config
    kept = getattr(diffusers, given["_class_name"]).from_config(written).config
    assert kept["timestep_spacing"] == config.timestep_spacing
    assert config.timestep_spacing == given.get(
        "timestep_spacing", "leading" if "DDIM" in given["_class_name"] else "linspace"
    )


def test_training_leaves_torchs_generator_as_it_was(folder, tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"size": 16, "settings": {"steps": 2, "batch": 2}}))
    weights = []
    for state in (1, 2):
        torch.manual_seed(state)
        before, output = torch.get_rng_state(), tmp_path / str(state)
        list(train_autoencoder(folder, output, settings, {"seed": 3}))
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(load_file(output / "diffusion_pytorch_model.safetensors"))
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_matcher_learns_which_text_belongs_to_which_picture(folder, tmp_path):
    """Six plain colors: each picture finds its own text among the six."""
    write_plans(tmp_path)
    write_phrases(tmp_path / "phrases.parquet")
    list(
        train_text(
            tmp_path / "phrases.parquet", tmp_path / "t", tmp_path / "text.json", {"steps": 4}
        )
    )
    list(
        train_matcher(
            folder,
            tmp_path / "m",
            tmp_path / "t",
            tmp_path / "match.json",
            {"steps": 150, "learning_rate": 0.01},
        )
    )
    clip = network_from(CLIPText, CLIPTextConfig, tmp_path / "t" / "text_encoder")
    text = TextEncoder(clip, CLIPTokenizer.load(tmp_path / "t" / "tokenizer"))
    matcher = network_from(Matcher, MatcherConfig, tmp_path / "m" / "matcher")
    pictures = torch.cat([image.to_tensor(Image.new("RGB", (16, 16), color)) for color in COLORS])
    scores = (
        matcher.pictures(pictures)
        @ matcher.texts(text.pooled([f"a {color} square" for color in COLORS])).T
    )
    assert scores.argmax(dim=1).tolist() == list(range(6))
    assert scores.argmax(dim=0).tolist() == list(range(6))


def test_kill_9_and_resume_is_bitwise(folder, tmp_path):
    """Killed at a random step and resumed, the weights equal those of a run that nobody augment."""
    write_plans(tmp_path)

    def start(output):
        words = [
            "train",
            "autoencoder",
            str(folder),
            "--output",
            str(output),
            "--config",
            str(tmp_path / "vae.json"),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "sfumato", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    for attempt in range(3):
        killed = start(tmp_path / "killed")
        checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while killed.poll() is None and not (
            checkpoint.exists() and checkpoint.stat().st_mtime_ns > before
        ):
            time.sleep(0.01)
        time.sleep(0.05 * np.random.default_rng().random())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if attempt == 0:
            assert not (tmp_path / "killed" / "config.json").exists(), (
                "the first kill came before the end"
            )
    assert start(tmp_path / "killed").wait() == 0
    one, other = (
        load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "killed")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_slow_run_saves_by_the_clock_and_says_where_it_goes_on(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sfumato.train.loop.SAVE_SECONDS", 0.0)
    write_plans(tmp_path)
    events = train_autoencoder(folder, tmp_path / "o", tmp_path / "vae.json", {"steps": 5})
    steps = [event.step for event in (next(e for e in events if not isinstance(e, str)),)]
    assert steps == [1]
    with safe_open(tmp_path / "o" / CHECKPOINT, "pt") as f:
        assert f.metadata()["step"] == "1"
    events.close()
    _train(
        train_autoencoder(folder, tmp_path / "o", tmp_path / "vae.json", {"steps": 5}),
        tmp_path / "o",
    )
    assert "the run resumes after step 1 of 5" in capsys.readouterr().err


def test_previews_have_their_captions():
    pictures = [Image.new("RGB", (64, 64), "red")] * 3
    plain, told = (
        image.sheet(pictures, 3),
        image.sheet(pictures, 3, captions=["a red apple, Fluent flat emoji", "x", ""]),
    )
    assert told.size[0] == plain.size[0] and told.size[1] > plain.size[1]
    below = np.asarray(told.convert("L"))[68:]
    assert (below[:, :66] < 128).sum() > 3 * (below[:, 66:130] < 128).sum() > 0
    assert (below[:, 134:] == 255).all()


@pytest.mark.parametrize("damage", ["truncated", "not JSON", "a list", "empty"])
def test_a_damaged_cache_is_computed_again(tmp_path, damage):
    def rows(start, end):
        return torch.arange(start, end).float()[:, None].expand(-1, 40)

    path = tmp_path / "latents.npy"
    list(cached(path, "key", (6, 40), rows))
    if damage == "truncated":
        os.truncate(path, 100)
    else:
        path.with_suffix(".json").write_text(
            {"not JSON": "{", "a list": "[1]", "empty": ""}[damage]
        )
    assert list(cached(path, "key", (6, 40), rows)) != []
    assert np.load(path)[:, 0].tolist() == list(range(6))


def test_a_key_without_effect_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"rank": 8}')
    with pytest.raises(ConfigError, match="rank has no effect"):
        read_plan("autoencoder", tmp_path, tmp_path.parent / "out", tmp_path / "c.json", {})


def test_a_tokenizer_of_a_stopped_run_is_not_taken_over(tmp_path):
    """Without a checkpoint, other phrases get tokens of their own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def phrases(word, name):
        texts = [f"{word}{k}" for k in range(8)]
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(np.random.default_rng(0).normal(size=32).astype(np.float16)), 4
        )
        pq.write_table(
            pa.table({"text": texts, "weight": [1.0] * 8, "embedding": column}), tmp_path / name
        )
        return tmp_path / name

    write_plans(tmp_path)
    how = (tmp_path / "t", tmp_path / "text.json", {"steps": 1})
    stopped = train_text(phrases("apple", "a.parquet"), *how)
    while not (tmp_path / "t/tokenizer/vocab.json").exists():
        next(stopped)
    stopped.close()
    (tmp_path / "t/checkpoint.safetensors").unlink(missing_ok=True)  # killed before the first
    first = (tmp_path / "t/tokenizer/vocab.json").read_text("utf-8")
    list(train_text(phrases("zebra", "z.parquet"), *how))
    assert (
        "zebra" in (tmp_path / "t/tokenizer/vocab.json").read_text("utf-8") and "zebra" not in first
    )
