"""sfumato index and search: documents by words, pictures by example, increments, and a kill at any
point.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from sfumato import Autoencoder, image
from sfumato.cli import app
from sfumato.condition.matcher import Matcher
from sfumato.data.rows import read
from sfumato.errors import DataError, ModelError, OptionError
from sfumato.hub.load import load
from sfumato.hub.save import save_network
from sfumato.tasks.search import index as work
from sfumato.tasks.search.index import index
from sfumato.tasks.search.items import items_of
from sfumato.tasks.search.query import search
from sfumato.tasks.search.space import index_settings

pytest.importorskip("lancedb")
DIGITS = load_digits()
TOPICS = {
    "fruit": "apple pear plum cherry orchard sweet juice",
    "road": "engine wheel car motor brake driver street",
    "sea": "ship wave salt fish port sail",
}


def write_texts(folder, each=12):
    rng = np.random.default_rng(0)
    for topic, words in TOPICS.items():
        (folder / topic).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            (folder / topic / f"{k}.txt").write_text(" ".join(rng.choice(words.split(), 10)))
    return folder


def write_pictures(folder, count=60):
    for k in range(count):
        place = folder / str(DIGITS.target[k])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((DIGITS.images[k] * 15.9).astype(np.uint8)).save(place / f"{k}.png")
    return folder


def rows(folder):
    import lancedb

    table = lancedb.connect(folder / "database").open_table("items")
    return sorted(
        (r["name"], r["stamp"], tuple(r["vector"])) for r in table.search().limit(None).to_list()
    )


def test_documents_by_words_and_by_example(tmp_path):
    source = write_texts(tmp_path / "in")
    index(source, tmp_path / "ix", "lsa:3")
    for query in ({"words": "sweet cherry"}, {"like": source / "fruit" / "0.txt"}):
        assert {h.label for h in search(tmp_path / "ix", **query, k=5)} == {"fruit"}
    assert {h.label for h in search(tmp_path / "ix", "sweet cherry", 5, "label = 'sea'")} == {"sea"}
    assert search(str(tmp_path / "ix"), "sweet cherry " * 400, 1)[0].label == "fruit", (
        "a passage is no file name"
    )
    best = search(tmp_path / "ix", k=1, like=str(source / "fruit" / "0.txt"))[0]
    assert best.similarity == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("space", ["pca:12", "autoencoder:12"])
def test_pictures_by_example(space, tmp_path):
    source = write_pictures(tmp_path / "in")
    index(source, tmp_path / "ix", space, side=8)
    hits = search(tmp_path / "ix", k=4, like=source / "3" / "3.png")
    assert hits[0].name == "3/3.png"
    assert hits == sorted(hits, key=lambda h: -h.similarity)
    result = CliRunner().invoke(
        app,
        [
            "search",
            str(tmp_path / "ix"),
            "--like",
            str(source / "3" / "3.png"),
            "-k",
            "4",
            "--output",
            str(tmp_path / "s.png"),
        ],
    )
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (2 * 130 + 2, 2 * 130 + 2)


def test_inspect_describes_an_index_and_its_space(run, tmp_path):
    index(write_pictures(tmp_path / "in"), tmp_path / "ix", "pca:3", side=8)
    told = json.loads(run("inspect", "ix")[1])
    assert (told["kind"], told["side"], told["fitted"]["estimator"]) == ("pictures", 8, "PCA")
    assert json.loads(run("inspect", "ix/space")[1])["params"]["n_components"] == 3


def test_pictures_by_words(tiny, tmp_path):
    """A model's matcher as the space: the nearest by words are those whose scores are highest."""
    source = write_pictures(tmp_path / "in")
    index(source, tmp_path / "ix", str(tiny))
    model = load(str(tiny))
    hits = search(tmp_path / "ix", "a red apple", 60)
    shown = torch.cat(
        [
            image.to_tensor(image.read(source / h.name).resize((16, 16), Image.Resampling.LANCZOS))
            for h in hits
        ]
    )
    scores = (
        model.matcher.pictures(shown) @ model.matcher.texts(model.text.pooled(["a red apple"]))[0]
    ).tolist()
    assert len(hits) == 60
    assert [h.similarity for h in hits] == pytest.approx(scores, abs=0.02)
    assert search(tmp_path / "ix", k=1, like=source / "3" / "3.png")[0].name == "3/3.png"
    with pytest.raises(OptionError, match="space of pictures"):
        index(write_texts(tmp_path / "texts"), tmp_path / "other", str(tiny))
    assert not (tmp_path / "other").exists()


def test_an_index_with_the_old_name_of_its_space_opens(tiny, tmp_path):
    index(write_pictures(tmp_path / "in"), tmp_path / "ix", str(tiny))
    hits = search(tmp_path / "ix", "a red apple", 3)
    record = tmp_path / "ix" / "space" / "estimator.json"
    text = record.read_text()
    assert '"ImageTextSpace"' in text
    record.write_text(text.replace('"ImageTextSpace"', '"Matched"'))
    assert search(tmp_path / "ix", "a red apple", 3) == hits


def test_other_weights_of_a_matcher_are_refused(tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "model")
    index(write_pictures(tmp_path / "in"), tmp_path / "ix", str(copy))
    torch.manual_seed(1)
    save_network(Matcher(load(str(copy)).matcher.config), copy / "matcher", torch.float32)
    with pytest.raises(ModelError, match="other weights"):
        search(tmp_path / "ix", "a red apple")
    shutil.rmtree(copy / "matcher")
    with pytest.raises(ModelError, match="has no matcher"):
        search(tmp_path / "ix", "a red apple")


def test_a_saved_estimator_is_a_space(tmp_path):
    source = write_pictures(tmp_path / "in")
    model = Autoencoder(4, layers=(16,), epochs=2, random_state=0).fit(
        np.random.default_rng(0).random((50, 192), np.float32)
    )
    model.save(tmp_path / "m")
    index(source, tmp_path / "ix", str(tmp_path / "m"), side=8)
    assert len(rows(tmp_path / "ix")[0][2]) == 4
    with pytest.raises(OptionError, match="192 values"):
        index(source, tmp_path / "other", str(tmp_path / "m"), side=9)
    index(write_texts(tmp_path / "texts"), tmp_path / "words", "lsa:3")
    with pytest.raises(OptionError, match="words of other documents"):
        index(tmp_path / "texts", tmp_path / "again", str(tmp_path / "words/space"))


def test_only_what_changed_is_encoded(tmp_path):
    source = write_texts(tmp_path / "in")
    assert index(source, tmp_path / "ix", "lsa:3").total == 36
    assert index(source, tmp_path / "ix").total == 0
    (source / "sea" / "new.txt").write_text("ship and fish and wave")
    (source / "sea" / "0.txt").write_text("apple juice, sweet apple juice")
    (source / "road" / "0.txt").unlink()
    last = index(source, tmp_path / "ix")
    assert (last.total, last.removed) == (2, 1)
    names = [r[0] for r in rows(tmp_path / "ix")]
    assert len(names) == len(set(names)) == 36
    assert search(tmp_path / "ix", "juice of apple", 1)[0].name in (
        "sea/0.txt",
        *[n for n in names if n.startswith("fruit")],
    )


def test_odd_items_are_listed_not_fatal(tmp_path):
    source = write_pictures(tmp_path / "in")
    (source / "3" / "it's broken.png").write_bytes(b"no picture")
    Image.new("CMYK", (40, 9), (1, 2, 3, 4)).save(source / "3" / "odd.jpg")
    Image.new("1", (1, 1)).save(source / "3" / "one.png")
    (source / "3" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    last = index(source, tmp_path / "ix", side=8)
    assert [s.split(":")[0] for s in last.skipped] == ["3/it's broken.png", "3/nowhere.png"]
    assert len(rows(tmp_path / "ix")) == 62


SCRIPT = """
import sys
from pathlib import Path
import sfumato.tasks.search.index as work
work.BATCH = 2
work.index(Path(sys.argv[1]), Path(sys.argv[2]), "lsa:3")
"""


def test_what_has_no_code_is_listed(tmp_path):
    source = write_texts(tmp_path / "in")
    index(source, tmp_path / "ix", "lsa:3")
    (source / "junk.txt").write_bytes(np.random.default_rng(0).bytes(2000))
    (said,) = index(source, tmp_path / "ix", "lsa:3").skipped
    assert said == "junk.txt: it is not a text file, but binary data"
    with pytest.raises(DataError, match=r"junk.txt: it is not a text file"):
        search(tmp_path / "ix", like=source / "junk.txt")
    for name in ("a", "b", "c", "d"):
        (tmp_path / "equal").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "equal" / f"{name}.png")
    made = index(tmp_path / "equal", tmp_path / "pictures")
    assert len(made.skipped) == 4 and "does not differ from the mean" in made.skipped[0]
    with pytest.raises(OptionError, match="does not differ from the mean"):
        search(tmp_path / "pictures", like=tmp_path / "equal" / "a.png")


@pytest.mark.slow
def test_killed_at_random_points_then_finished(tmp_path):
    source = write_texts(tmp_path / "in", each=30)
    index(source, tmp_path / "whole", "lsa:3")
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(6):
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, source, tmp_path / "ix"],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started = time.monotonic()
        while (
            not (tmp_path / "ix/database").exists()
            and run.poll() is None
            and time.monotonic() - started < 60
        ):
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.4)))
        killed += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert killed >= 2
    index(source, tmp_path / "ix", "lsa:3")
    assert rows(tmp_path / "ix") == rows(tmp_path / "whole")


def test_wrong_input(tmp_path):
    source = write_texts(tmp_path / "in")
    for space, message in (
        ("lsa", "with the code length after the colon"),
        ("umap:3", "unknown space"),
        ("lsa:0", "with the code length after the colon"),
    ):
        with pytest.raises(OptionError, match=message):
            index(source, tmp_path / "ix", space)
    assert not (tmp_path / "ix").exists()
    index(source, tmp_path / "ix", "lsa:3")
    with pytest.raises(OptionError, match="another --output"):
        index(source, tmp_path / "ix", "pca:3")
    with pytest.raises(OptionError, match="is the index of"):
        index(write_texts(tmp_path / "other"), tmp_path / "ix")
    with pytest.raises(OptionError, match="pca is not suited to documents"):
        index(source, tmp_path / "new", "pca:2")
    (tmp_path / "file").write_text("here")
    with pytest.raises(OptionError, match="is a file"):
        index(source, tmp_path / "file")
    with pytest.raises(OptionError, match="no word of"):
        search(tmp_path / "ix", "zebra")
    with pytest.raises(OptionError, match="are empty"):
        search(tmp_path / "ix", " ")
    with pytest.raises(OptionError, match="filter"):
        search(tmp_path / "ix", "apple", where="colour = 3")
    with pytest.raises(OptionError, match="1 or more"):
        search(tmp_path / "ix", "apple", 0)
    with pytest.raises(ModelError, match="is not an index"):
        search(tmp_path, "apple")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        index(tmp_path / "empty", tmp_path / "other")
    pictures = write_pictures(tmp_path / "p")
    index(pictures, tmp_path / "px", side=8)
    for side, message in ((16, "resized to 8 pixels"), (0, "within 4 to 512")):
        with pytest.raises(OptionError, match=message):
            index(pictures, tmp_path / "px", side=side)
    result = CliRunner().invoke(
        app,
        [
            "search",
            str(tmp_path / "px"),
            "--like",
            str(pictures / "0/0.png"),
            "--output",
            str(tmp_path / "hit.txt"),
        ],
    )
    assert "are written as" in str(result.exception)
    with pytest.raises(OptionError, match="does not exist"):
        search(tmp_path / "px", like=pictures / "0/none.png")
    with pytest.raises(OptionError, match="looks like a file name; give an example file"):
        search(tmp_path / "px", str(pictures / "0/0.png"))
    for both in ({}, {"words": "apple", "like": pictures / "0/0.png"}):
        with pytest.raises(OptionError, match="either words, or an example"):
            search(tmp_path / "px", **both)
    with pytest.raises(OptionError, match="searched only by an example picture"):
        search(tmp_path / "px", "a red apple")
    with pytest.raises(OptionError, match="is not empty and not an index"):
        index(pictures, tmp_path / "in")


@pytest.mark.slow
def test_a_large_index_is_approximate_and_says_how_well(tmp_path, monkeypatch):
    import sfumato.tasks.search.index as work

    source = write_texts(tmp_path / "in", each=400)
    index(source, tmp_path / "exact", "lsa:3")
    monkeypatch.setattr(work, "APPROXIMATE", 1000)
    index(source, tmp_path / "ix", "lsa:3")
    assert index_settings(tmp_path / "exact").recall is None
    recall = index_settings(tmp_path / "ix").recall
    assert 0.2 < recall <= 1
    near, true = (
        search(folder, "sweet cherry pear", 12) for folder in (tmp_path / "ix", tmp_path / "exact")
    )
    assert {h.label for h in near} == {h.label for h in true} == {"fruit"}


def test_rows_of_a_csv_are_documents(tmp_path):
    (tmp_path / "t.csv").write_text('text,label\n"apple, pear",fruit\n"engine\nwheel",car\n')
    kind, items = items_of(tmp_path / "t.csv")
    assert (kind, [(i.label, i.sample.read()) for i in items]) == (
        "documents",
        [("fruit", b"apple, pear"), ("car", b"engine\nwheel")],
    )
    (tmp_path / "n.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match="has no column of texts"):
        items_of(tmp_path / "n.csv")


def test_linked_folders_and_names_that_are_no_utf8_are_indexed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("apple pear")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "far")
    assert [(i.name, i.label) for i in items_of(tmp_path / "texts")[1]] == [
        ("linked/a.txt", "linked")
    ]
    odd = tmp_path / "pictures" / os.fsdecode(b"caf\xe9.png")
    odd.parent.mkdir()
    Image.new("RGB", (8, 8)).save(odd)
    (item,) = items_of(odd.parent)[1]
    assert item.name == "caf\\xe9.png"
    assert item.stamp != "missing", "a change of the file is seen"


def test_a_changed_label_is_a_change(tmp_path):
    texts = ["apple pear fruit", "engine wheel car", "sweet orchard pear", "motor road wheel"]
    stamps = []
    for labels in (["a", "b", "a", "b"], ["a", "b", "a", "c"]):
        pyarrow.parquet.write_table(
            pyarrow.table({"text": texts, "label": labels}), tmp_path / "t.parquet"
        )
        stamps.append([item.stamp for item in items_of(tmp_path / "t.parquet")[1]])
    assert [a == b for a, b in zip(*stamps, strict=True)] == [True, True, True, False]


def test_a_text_that_cannot_be_read_is_listed(tmp_path):
    source = write_texts(tmp_path / "in")
    (source / "gone.txt").symlink_to("nowhere.txt")
    made = index(source, tmp_path / "ix", "lsa:3")
    assert [line.split(":")[0] for line in made.skipped] == ["gone.txt"]
    assert len(rows(tmp_path / "ix")) == 36
    table = read(source)
    assert len(table) == 36
    assert table.skipped[0].startswith("gone.txt: ")


def documents(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_a_document_with_new_words_is_found_by_them(tmp_path):
    words = {f"d{k}": f"apples pears plums orchard fruit number{k} harvest" for k in range(8)}
    source = documents(tmp_path / "in", **words)
    index(source, tmp_path / "ix")
    documents(source, d3="quasar nebula telescope galaxy")
    made = index(source, tmp_path / "ix")
    assert made.skipped == ()
    assert search(tmp_path / "ix", "telescope galaxy", 1)[0].name == "d3.txt"
    assert search(tmp_path / "ix", "orchard number5", 1)[0].name == "d5.txt", (
        "the others are found as before"
    )
    (tmp_path / "q.txt").write_text("zyzzyva")
    with pytest.raises(OptionError, match=r"no word in .*q.txt occurs in the index"):
        search(tmp_path / "ix", like=tmp_path / "q.txt")


@pytest.mark.parametrize("where", ["name LIKE '%a' ; drop table x", "label = 'a' -- b"])
def test_a_filter_is_one_condition(tmp_path, where):
    source = documents(tmp_path / "in", **{f"d{k}": f"apples pears number{k}" for k in range(4)})
    index(source, tmp_path / "ix", "lsa:2")
    with pytest.raises(OptionError, match="no single condition"):
        search(tmp_path / "ix", "apples", where=where)
    assert search(tmp_path / "ix", "apples", where="name != 'a;b--c'")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, tmp_path, monkeypatch):
    source = documents(
        tmp_path / "in", **{f"d{k}": f"apples pears plums number{k}" for k in range(6)}
    )
    monkeypatch.setattr(
        work,
        "encode",
        lambda *_: (_ for _ in ()).throw(
            RuntimeError("lance error: No space left on device\n at a\n at b")
        ),
    )
    code, out, err = run("index", source, "--output", tmp_path / "ix")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "No space left on device" in err
    assert not (tmp_path / "ix").exists()
    monkeypatch.undo()
    index(source, tmp_path / "ix")
    documents(source, d9="apples pears")
    monkeypatch.setattr(
        work, "encode", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(DataError, match="No space left"):
        index(source, tmp_path / "ix")
    monkeypatch.undo()
    assert search(tmp_path / "ix", "plums number4", 1)[0].name == "d4.txt", "what was there stays"


def test_pictures_are_found_by_their_names_first(tmp_path):
    """ "fish" is the fish whatever the matcher thinks of the pictures; parts of words are no
    words.
    """
    random = np.random.default_rng(0)
    for name in ("tropical_fish", "fishing pole", "apple", "clown", "two-dogs"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(
            tmp_path / "in" / f"{name}.png"
        )
    index(tmp_path / "in", tmp_path / "ix", "icons")
    assert search(tmp_path / "ix", "fish", 5)[0].name == "tropical_fish.png"
    assert search(tmp_path / "ix", "a dog", 5)[0].name != "two-dogs.png", "not all words"
    assert search(tmp_path / "ix", "dog", 5)[0].name == "two-dogs.png"
    assert len({hit.name for hit in search(tmp_path / "ix", "fish", 5)}) == 5
    assert (
        search(tmp_path / "ix", "fish", 5, "name != 'tropical_fish.png'")[0].name
        != "tropical_fish.png"
    )


def test_a_damaged_index_is_one_sentence_and_stays(run, tmp_path):
    source = documents(
        tmp_path / "in", **{f"d{k}": f"apples pears plums number{k}" for k in range(6)}
    )
    index(source, tmp_path / "ix")
    there = sorted(p for p in (tmp_path / "ix").rglob("*") if p.is_file())
    for path in (p for p in there if p.suffix == ".lance"):
        path.write_bytes(b"junk")
    for words in (
        ("search", tmp_path / "ix", "plums"),
        ("index", source, "--output", tmp_path / "ix"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert err.count("\n") == 1 and "cannot be read" in err
    assert sorted(p for p in (tmp_path / "ix").rglob("*") if p.is_file()) == there, (
        "nothing of the user's is deleted"
    )


def test_texts_beside_pictures_are_told(run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k in range(6):
        noise = np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    (folder / "0.txt").write_text("a caption")
    ask = ["index", folder, "--output", tmp_path / "index", "--space", "pca:2"]
    assert "not indexed" not in run(*ask)[2]
    (folder / "notes.txt").write_text("some notes")
    code, _, err = run(*ask)
    assert code == 0 and "1 .txt files are not indexed" in err


def test_a_table_without_texts_or_pictures_is_told(tmp_path):
    (tmp_path / "n.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="has no column of texts"):
        index(tmp_path / "n.csv", tmp_path / "ix")


def test_words_that_the_model_does_not_know_are_told(run, tmp_path):
    index(write_pictures(tmp_path / "in"), tmp_path / "ix", "icons")
    assert "seems to know no word" in run("search", "ix", "asdfqwer zxcv")[2]
    assert "seems to know no word" not in run("search", "ix", "dog")[2]


def test_documents_of_a_guessed_encoding_are_told(tmp_path, run):
    source = documents(tmp_path / "in", a="apple pear", b="apple car", c="pear car")
    (source / "d.txt").write_bytes("apple pear café".encode("cp1252"))
    code, _, err = run("index", source, "--output", tmp_path / "ix", "--space", "lsa:2")
    assert code == 0 and "d.txt: its text is not UTF-8" in err
    assert "d.txt" not in run("index", source, "--output", tmp_path / "ix")[2], "told once"
