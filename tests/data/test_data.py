"""What people have: hidden files, encodings, delimiters, and captions in every layout."""

import gzip
import io
import json
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from sfumato.data import rows
from sfumato.data.samples import find, scan
from sfumato.data.tables import read_table
from sfumato.data.text import decode
from sfumato.data.walk import files
from sfumato.errors import DataError, OptionError
from sfumato.progress import result_of
from sfumato.tasks.create.prompts import gather
from sfumato.tasks.search.index import index
from sfumato.tasks.search.items import items_of
from sfumato.train.pack import pack


def png(color="red", size=(16, 16)):
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def captions(source):
    return {sample.name: sample.captions for sample in find(source)}


HIDDEN = {
    "cat/0.png": png(),
    "cat/1.png": png("blue"),
    "dog/0.png": png("green"),
    "cat/.ipynb_checkpoints/0-checkpoint.png": png(),
    "cat/._0.png": b"\0\5\x16\7Mac OS X",
    "__MACOSX/cat/._0.png": b"\0\5",
}


def test_hidden_files_are_no_data(tmp_path):
    seen = {"cat/0.png", "cat/1.png", "dog/0.png"}
    for name, content in HIDDEN.items():
        write(tmp_path / "d" / name, content)
    assert {p.relative_to(tmp_path / "d").as_posix() for p in files(tmp_path / "d")} == seen
    assert {item.name for item in items_of(tmp_path / "d")[1]} == seen
    assert len(rows.read(tmp_path / "d")) == 3
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name, content in HIDDEN.items():
            archive.writestr(name, content)
    assert len(rows.read(tmp_path / "d.zip")) == 3
    tar(tmp_path / "d.tar", HIDDEN)
    assert set(captions(tmp_path / "d.tar")) == {"cat/0", "cat/1", "dog/0"}


def test_a_folder_that_is_hidden_itself_is_read(tmp_path):
    write(tmp_path / ".mine" / "0.png", png())
    assert [p.name for p in files(tmp_path / ".mine")] == ["0.png"]


def test_links_that_point_at_each_other_end_nothing(run, tmp_path):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    write(tmp_path / "good.png", png(size=(40, 40)))
    code, out, err = run("restore", tmp_path, "--denoise=5", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "good.png").exists()
    assert "a.png" in err
    assert "Traceback" not in err
    assert code == 3, "some failed"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_text_in_unicode(encoding):
    assert decode("a red café\r\n".encode(encoding)) == ("a red café\r\n", None)


def test_text_in_no_unicode_is_noted(tmp_path):
    text, note = decode("a red café".encode("cp1252"))
    assert text == "a red café"
    assert "Windows-1252" in note
    for k, encoding in enumerate(["utf-8", "utf-8-sig", "utf-16", "cp1252"]):
        write(tmp_path / "p" / f"{k}.png", png())
        write(tmp_path / "p" / f"{k}.txt", "a red café\r\n".encode(encoding))
    tar(tmp_path / "p.tar", {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()})
    for source in (tmp_path / "p", tmp_path / "p.tar"):
        assert set(captions(source).values()) == {("a red café",)}
        (noted,) = scan(source).notes
        assert noted.startswith("3")
    documents = tmp_path / "docs"
    for k in range(4):
        write(documents / f"{k}.txt", f"café {k}".encode("utf-16" if k else "cp1252"))
    table = rows.read(documents)
    assert table.texts == [f"café {k}" for k in range(4)]
    assert len(table.notes) == 1


@pytest.mark.parametrize("junk", [np.random.default_rng(0).bytes(4000), b"MZ\x00\x00\x03abc" * 9])
def test_binary_data_is_no_document(junk, tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "texts" / f"{name}.txt", f"apple pear {name * 3}".encode())
    write(tmp_path / "texts" / "junk.txt", junk)
    said = "junk.txt: it is not a text file, but binary data"
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        for path in (tmp_path / "texts").iterdir():
            archive.write(path, path.name)
    for source in (tmp_path / "texts", tmp_path / "texts.zip"):
        found = rows.read(source)
        assert (len(found.texts), found.skipped) == (4, [said])
    assert index(tmp_path / "texts", tmp_path / "ix", "lsa:2").skipped == (said,)


def test_prompts_in_other_encodings(tmp_path):
    write(tmp_path / "p.txt", "ein roter Apfel\nein Käse\n".encode("utf-16"))
    assert [p.text for p in gather([], tmp_path / "p.txt")] == ["ein roter Apfel", "ein Käse"]
    write(tmp_path / "q.txt", "ein Käse".encode("cp1252"))
    with pytest.raises(OptionError, match="save it as UTF-8"):
        gather([], tmp_path / "q.txt")


def test_webdataset_names_end_at_their_first_dot(tmp_path):
    members = {
        "1.left.png": png(),
        "1.right.png": png(),
        "1.txt": b"a pair",
        "v.1.png": png(),
        "v.1.txt": b"dots",
        "d.png": png(),
        "d.caption.txt": b"other name",
        "e.png": png(),
        "e.json": b'\xef\xbb\xbf{"caption": "json"}',
        "./f/x.JPG": png(),
        "./f/x.TXT": b"capitals",
    }
    expected = {
        "1.left": "a pair",
        "1.right": "a pair",
        "v.1": "dots",
        "d": "other name",
        "e": "json",
        "./f/x": "capitals",
    }
    tar(tmp_path / "w.tar", members)
    tar(tmp_path / "w.tar.gz", members, "w:gz")
    for name in ("w.tar", "w.tar.gz"):
        assert captions(tmp_path / name) == {k: (v,) for k, v in expected.items()}


def test_metadata_finds_its_pictures(tmp_path):
    names = {
        "NFD": unicodedata.normalize("NFD", "Käse.png"),
        "win": "sub/win.png",
        "dot": "dotted.png",
        "case": "Case.PNG",
    }
    for name in names.values():
        write(tmp_path / "d" / name, png())
    given = {
        "NFD": unicodedata.normalize("NFC", "Käse.png"),
        "win": "sub\\win.png",
        "dot": "./dotted.png",
        "case": "case.png",
        "gone": "gone.png",
    }
    lines = [json.dumps({"file_name": name, "text": key}) for key, name in given.items()]
    write(tmp_path / "d" / "metadata.jsonl", "\r\n".join(lines).encode())
    assert {c for (c,) in captions(tmp_path / "d").values()} == set(names)
    packed = result_of(pack(tmp_path / "d", 8, tmp_path / "cache", captions=True))
    assert len(packed.captions) == 4
    assert packed.notes == ["gone.png is listed in the metadata, but does not exist"]


@pytest.mark.parametrize(
    ("picture", "table", "record"),
    [
        ("train/0.png", "train/metadata.jsonl", {"file_name": "0.png", "text": "red"}),
        ("0.png", "metadata.jsonl", {"file_name": "0.png", "caption": "red"}),
        ("0.png", "metadata.jsonl", {"image_file_name": "0.png", "text": "red"}),
        ("train/x/0.png", "train/metadata.csv", {"file_name": "x/0.png", "text": "red"}),
        ("0.png", "metadata.parquet", {"file_name": "0.png", "text": "red"}),
    ],
    ids=str,
)
def test_layouts_of_hugging_face(tmp_path, picture, table, record):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path / picture, png())
    if table.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / table)
    else:
        columns, cells = ",".join(record), ",".join(record.values())
        write(
            tmp_path / table,
            (json.dumps(record) if table.endswith("jsonl") else f"{columns}\n{cells}\n").encode(),
        )
    assert captions(tmp_path) == {picture: ("red",)}


def test_splits_are_no_classes(tmp_path):
    write(tmp_path / "train" / "0.png", png())
    write(tmp_path / "train" / "cat" / "0.png", png())
    assert captions(tmp_path) == {"train/0.png": (), "train/cat/0.png": ("cat",)}


def test_other_names_of_splits(tmp_path):
    lines = [f"{k},{k % 3},{'Train' if k < 6 else 'validation'}\n" for k in range(10)]
    write(tmp_path / "t.csv", ("a,b,split\n" + "".join(lines)).encode())
    table = rows.read(tmp_path / "t.csv")
    assert len(table) == 10 and table.test.tolist() == [False] * 6 + [True] * 4


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("cat,3\ndog,4\ncat,5\ndog,6\n", 1),
        ("1,2,setosa\n3,5,setosa\n2,4,rose\n9,1,rose\n", 2),
        ("\ncity;2020\nparis;5\nrome;6\noslo;1\n", 1),
    ],
)
def test_a_first_line_of_data_is_kept(text, columns, tmp_path):
    """A year beside a word is the name of a column."""
    write(tmp_path / "t.csv", text.encode())
    table = rows.read(tmp_path / "t.csv")
    assert table.rows.shape == (3 if "2020" in text else 4, columns)


def test_a_long_label_takes_little_memory(tmp_path):
    lines = "".join(f"{k},{'x' * 100_000 if k == 3 else k % 2}\n" for k in range(500))
    write(tmp_path / "t.csv", f"a,label\n{lines}".encode())
    labels = rows.read(tmp_path / "t.csv").labels
    assert labels.nbytes < 1e6 and len(set(labels.tolist())) == 3


def test_a_picture_that_cannot_be_read_moves_no_caption(tmp_path):
    """It may come into the folder, also as a broken link, after the others were decoded."""
    source, cache = tmp_path / "own", tmp_path / "cache"
    for name in "bcd":
        write(source / f"{name}.png", png())
        write(source / f"{name}.txt", f"caption {name}".encode())
    before = result_of(pack(source, 8, cache, captions=True)).captions
    for name in ("a.heic", "a0.png"):
        if name == "a.heic":
            write(source / name, b"no picture")
        else:
            (source / name).symlink_to(tmp_path / "gone.png")
        assert result_of(pack(source, 8, cache, captions=True)).captions == before


def test_the_first_caption_that_is_not_empty(tmp_path):
    write(tmp_path / "0.png", png())
    record = {"file_name": "0.png", "text": None, "caption": "a cat"}
    write(tmp_path / "metadata.jsonl", json.dumps(record).encode())
    assert captions(tmp_path) == {"0.png": ("a cat",)}


def test_damaged_metadata_is_one_error(tmp_path):
    deep = b"[" * 200_000
    write(tmp_path / "own" / "0.png", png())
    write(tmp_path / "own" / "metadata.jsonl", deep)
    with pytest.raises(DataError, match="metadata"):
        find(tmp_path / "own")
    with tarfile.open(tmp_path / "deep.tar", "w") as tar:
        for name, content in (("0.png", png()), ("0.json", deep)):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    assert find(tmp_path / "deep.tar")[0].captions == ()
    packed = bytearray(gzip.compress((tmp_path / "deep.tar").read_bytes()))
    packed[30:60] = b"\xff" * 30
    write(tmp_path / "damaged.tar.gz", bytes(packed))
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        find(tmp_path / "damaged.tar.gz")


def test_a_folder_or_binary_data_is_no_caption(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.png", png())
    (tmp_path / "a.txt").mkdir()
    write(tmp_path / "b.txt", bytes(range(256)))
    assert captions(tmp_path) == {"a.png": (), "b.png": ()}


def test_a_link_beside_its_folder_gives_no_class(tmp_path):
    write(tmp_path / "cats" / "0.png", png())
    (tmp_path / "animals").symlink_to(tmp_path / "cats")
    assert captions(tmp_path) == {"cats/0.png": ("cats",)}


def test_metadata_that_names_no_file(tmp_path):
    write(tmp_path / "0.png", png())
    write(tmp_path / "metadata.jsonl", b'{"text": "red"}')
    with pytest.raises(DataError, match="columns file_name and text"):
        find(tmp_path)


PLAIN = "p,q,species\n1.5,2,a\n3,4.25,b\n5,6,a\n7,8,b\n9,1,a\n"


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (PLAIN.encode("utf-16"), 0),
        (PLAIN.encode("utf-8-sig"), 0),
        (PLAIN.replace(",", ";").encode(), 0),
        (PLAIN.replace(",", "\t").encode(), 0),
        (PLAIN.replace(",", ";").replace(".", ",").encode(), 0),
        (
            "".join(
                f"{k - 1 if k else ''},{line}\n" for k, line in enumerate(PLAIN.split("\n")[:-1])
            ).encode(),
            1,
        ),
    ],
    ids=["utf-16", "bom", "semicolons", "tabs", "decimal commas", "a column that counts"],
)
def test_tables_as_people_have_them(tmp_path, content, notes):
    write(tmp_path / "t.csv", content)
    table = rows.read(tmp_path / "t.csv")
    assert np.array_equal(table.rows, [[1.5, 2], [3, 4.25], [5, 6], [7, 8], [9, 1]])
    assert table.labels.tolist() == ["a", "b", "a", "b", "a"]
    assert len(table.notes) == notes


def test_decimal_commas_in_columns_with_gaps(tmp_path):
    write(tmp_path / "t.csv", b"p;q;s\n1,5;2,5;x\n;3,5;y\n4,5;1,5;x\n2,5;;y\n6,5;7;x\n")
    table = rows.read(tmp_path / "t.csv", label="s")
    assert table.rows.tolist() == [[1.5, 2.5], [4.5, 1.5], [6.5, 7]]
    assert len(table.skipped) == 2


def test_empty_documents_and_labels_that_do_not_fit_are_named(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "texts" / f"{name}.txt", f"apple {name * 3}".encode())
    write(tmp_path / "texts" / "space.txt", b" \n")
    assert rows.read(tmp_path / "texts").skipped == ["space.txt: it is empty"]
    np.savez(tmp_path / "d.npz", images=np.zeros((5, 4, 4), np.uint8), labels=np.arange(4))
    assert rows.read(tmp_path / "d.npz").notes == ["labels does not fit images: it is left out"]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_training_and_test_arrays_of_one_file(tmp_path, names):
    pixels = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    labels = np.array([[0], [1], [0], [1], [2]])
    parts = dict(zip(names, (pixels[:3], labels[:3], pixels[3:], labels[3:]), strict=True))
    np.savez(tmp_path / "d.npz", **parts, val_images=pixels[:1])
    table = rows.read(tmp_path / "d.npz")
    assert table.test.tolist() == [False] * 3 + [True] * 2
    assert table.labels.tolist() == ["0", "1", "0", "1", "2"]
    assert np.allclose(table.rows * 255, pixels.reshape(5, 16))
    assert table.notes == [f"the rows are in {names[0]}; not used: val_images"]


def test_tables_in_other_encodings_and_with_gaps(tmp_path):
    write(tmp_path / "t.csv", "p,species\n1,sé\n2,b\n?,b\n4,sé\n".encode("cp1252"))
    table = rows.read(tmp_path / "t.csv")
    assert table.labels.tolist() == ["sé", "b", "sé"]
    assert table.skipped == ["row 2: p holds NaN or infinity"]
    assert "Windows-1252" in table.notes[0]
    write(tmp_path / "u.csv", b",p\nx,1\ny,2\n")
    assert "" in read_table(tmp_path / "u.csv")[0].column_names, "it does not count rows"


def test_a_pipe_is_not_waited_for(tmp_path):
    write(tmp_path / "d" / "a.png", png())
    os.mkfifo(tmp_path / "d" / "b.png")
    (tmp_path / "d" / "c.png").symlink_to("nowhere.png")
    assert [p.name for p in files(tmp_path / "d")] == ["a.png", "c.png"]
