"""Data in every layout, and what cannot be used."""

import io
import json
import os
import tarfile

import pytest
from PIL import Image
from tests.conftest import VAE
from tests.train.common import encoded

from sfumato import image
from sfumato.data import samples as data
from sfumato.denoiser.restorer import RestorerConfig
from sfumato.errors import ConfigError, DataError, SfumatoError
from sfumato.progress import result_of
from sfumato.space.kl import AutoencoderConfig
from sfumato.train.autoencoder import AutoencoderJob, train_autoencoder
from sfumato.train.diffusion import train_diffusion
from sfumato.train.pack import pack
from sfumato.train.plan import read_plan
from sfumato.train.restoration import train_restorer
from sfumato.train.restorer import RestorerJob, read_photos
from sfumato.train.text import train_text


def captions(found):
    return {s.name.rsplit("/", 1)[-1].split(".")[0]: s.captions for s in found}


def test_metadata_and_broken_pictures(folder, tmp_path):
    work = pack(folder, 16, tmp_path / "cache", captions=True)
    first = next(work)
    assert (first.what, first.done) == ("reading pictures", 0)
    packed = result_of(work)
    assert packed.pixels.shape == (6, 3, 16, 16), (
        "no black pictures in place of those that were skipped"
    )
    assert ("a red square",) in packed.captions
    assert len(packed.captions) == 6
    assert len(packed.skipped) == 1
    assert packed.skipped[0].startswith("broken.png: ")
    before = (tmp_path / "cache" / "pictures.npy").stat().st_mtime_ns
    result_of(pack(folder, 16, tmp_path / "cache", captions=True))
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
        result_of(pack(bare, 16, tmp_path / "c", captions=True))
    for name in ("x.parquet", "x.tar", "none", "x.zip"):
        with pytest.raises(DataError):
            data.find(tmp_path / name)


def test_what_weighs_nothing_is_never_drawn(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [encoded("red"), encoded("blue")]
    pq.write_table(pa.table({"image": pictures, "weight": [0.0, 2.0]}), tmp_path / "w.parquet")
    job = AutoencoderJob(
        AutoencoderConfig(**VAE),
        result_of(pack(tmp_path / "w.parquet", 16, tmp_path / "cache", captions=False)),
    )
    assert job.weights.tolist() == [0.0, 2.0]
    photos, _, often = result_of(read_photos(tmp_path / "w.parquet", 8))
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


def test_a_key_without_effect_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"rank": 8}')
    with pytest.raises(ConfigError, match="rank has no effect"):
        read_plan("autoencoder", tmp_path, tmp_path.parent / "out", tmp_path / "c.json", {})


def test_the_digest_is_of_what_is_trained_on(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for k in range(3):
        Image.new("RGB", (16, 16), (60 * k, 0, 0)).save(source / f"{k}.bmp")
        (source / f"{k}.txt").write_text("a cat")

    def digest(*, captions=True):
        return result_of(pack(source, 16, tmp_path / "cache", captions=captions)).digest

    first, plain = digest(), digest(captions=False)
    (source / "NOTES.md").write_text("nothing to train on")
    os.utime(source / "1.bmp", (1, 1))
    assert digest() == first
    (source / "1.txt").write_text("a dog")
    assert digest() != first, "a caption of the same length"
    assert digest(captions=False) == plain
    (source / "1.txt").write_text("a cat")
    assert digest() == first
    Image.new("RGB", (16, 16), (0, 90, 0)).save(source / "1.bmp")
    assert digest() != first, "a picture of the same size"
