"""sfumato reduce: every kind of data, the report, and wrong input."""

import copy
import gzip
import io
import json
import re
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import sfumato
from sfumato import image
from sfumato.cli import app, main
from sfumato.data.rows import read
from sfumato.errors import DataError, OptionError
from sfumato.tasks.reduce import compare, report
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.search.items import items_of
from sfumato.types import Progress

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

DIGITS = load_digits()
PIXELS = (DIGITS.images[:120] / 16 * 255).astype(np.uint8)
LABELS = DIGITS.target[:120]
WORDS = ("apple pear fruit sweet orchard", "engine wheel car road motor")


def encoded(k):
    stream = io.BytesIO()
    Image.fromarray((DIGITS.images[k] * 15.9).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def idx(path, array):
    head = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def documents():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 80)
    return [" ".join(rng.choice(WORDS[k].split(), 12)) for k in kinds], [
        f"topic {k}" for k in kinds
    ]


def test_default_code_lengths_fit_a_small_table(run, tmp_path):
    """Only lengths that were asked for are an error; the others are told."""
    rows = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.warns(match="code lengths of at most 3: the lengths compared are 2"):
        found = sfumato.reduce(rows, ReduceOptions(epochs=1, outliers=0))
    assert found.options.codes == (2,)
    np.save(tmp_path / "rows.npy", rows)
    code, _, told = run("reduce", tmp_path / "rows.npy", "--epochs", "1", "--outliers", "0")
    assert code == 0 and "code lengths of at most 3: the lengths compared are 2" in told
    with pytest.raises(OptionError, match="--codes: 10 is too large: 48 training rows of 4 values"):
        sfumato.reduce(rows, ReduceOptions(codes=(2, 10)))


def test_other_marks_of_missing_values(tmp_path):
    marks = ["-", ".", "missing", " "]
    lines = [f"{k},{marks[k] if k < 4 else k % 7}\n" for k in range(40)]
    (tmp_path / "t.csv").write_text("a,d\n" + "".join(lines))
    table = read(tmp_path / "t.csv")
    assert table.columns == ["a", "d"] and len(table) == 36


def test_letters_that_the_font_lacks_are_no_warning(tmp_path, recwarn):
    lines = [f"{k % 7},{k % 5},{k % 3},{'猫' if k % 2 else '犬'}\n" for k in range(40)]
    (tmp_path / "t.csv").write_text("a,b,c,label\n" + "".join(lines), "utf-8")
    found = sfumato.reduce(tmp_path / "t.csv", ReduceOptions(epochs=1, codes=(2,), outliers=0))
    report.write(found, tmp_path / "report", "t.csv")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_idx_files_with_a_dot_in_their_names(tmp_path):
    idx(tmp_path / "train-images.idx3-ubyte.gz", PIXELS[:10])
    idx(tmp_path / "train-labels.idx1-ubyte.gz", LABELS[:10])
    assert read(tmp_path / "train-images.idx3-ubyte.gz").labels is not None


def test_idx_files_that_do_not_go_together(tmp_path):
    idx(tmp_path / "train-images-idx3-ubyte.gz", PIXELS[:10])
    idx(tmp_path / "train-labels-idx1-ubyte.gz", LABELS[:9])
    with pytest.raises(DataError, match="10 pictures, but the label files beside it have 9"):
        read(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="holds no pictures"):
        read(tmp_path / "train-labels-idx1-ubyte.gz")


def write(kind, folder):
    """A data set of each kind; returns its path."""
    if kind == "npz":
        np.savez(folder / "d.npz", images=PIXELS, labels=LABELS)
        return folder / "d.npz"
    if kind == "npy":
        np.save(folder / "d.npy", DIGITS.data[:120].astype(np.float32))
        return folder / "d.npy"
    if kind == "csv":
        rows = [
            ",".join([f"{v:g}" for v in row] + [f"{label} $$$$"])
            for row, label in zip(DIGITS.data[:120, 20:40], LABELS, strict=True)
        ]
        (folder / "d.csv").write_text(
            "\n".join([",".join([f"p{k}" for k in range(20)] + ["label"]), *rows])
        )
        return folder / "d.csv"
    if kind == "parquet of texts":
        texts, labels = documents()
        pq.write_table(
            pa.table({"text": texts, "label": labels, "split": ["train"] * 50 + ["test"] * 30}),
            folder / "d.parquet",
        )
        return folder / "d.parquet"
    if kind == "idx":
        idx(folder / "train-images-idx3-ubyte.gz", PIXELS[:80])
        idx(folder / "train-labels-idx1-ubyte.gz", LABELS[:80])
        idx(folder / "t10k-images-idx3-ubyte.gz", PIXELS[80:])
        idx(folder / "t10k-labels-idx1-ubyte.gz", LABELS[80:])
        return folder
    if kind == "folder of texts":
        for k, (text, label) in enumerate(zip(*documents(), strict=True)):
            (folder / label).mkdir(exist_ok=True)
            (folder / label / f"{k}.txt").write_text(text)
        return folder
    for k, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(label) / f"{k}.png")
    (folder / "0" / "broken.png").write_bytes(b"no picture")
    if kind == "folder of pictures":
        return folder
    with zipfile.ZipFile(folder.parent / "d.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    return folder.parent / "d.zip"


DIGIT = (1, 8, 8)
KINDS = {
    "npz": ("pictures", 120, DIGIT, None),
    "npy": ("numbers", 120, None, None),
    "csv": ("numbers", 120, None, None),
    "idx": ("pictures", 120, DIGIT, 40),
    "parquet of texts": ("documents", 80, None, 30),
    "folder of texts": ("documents", 80, None, None),
    "folder of pictures": ("pictures", 120, DIGIT, None),
    "zip": ("pictures", 120, DIGIT, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_read(kind, tmp_path):
    (tmp_path / "in").mkdir()
    table = read(write(kind, tmp_path / "in"))
    want, count, shape, held = KINDS[kind]
    assert (table.kind, len(table), table.shape) == (want, count, shape)
    assert (table.labels is None) == (kind == "npy")
    assert (None if table.test is None else int(table.test.sum())) == held
    assert len(table.skipped) == (kind in ("folder of pictures", "zip"))
    if shape:
        assert 0 <= table.rows.min() < table.rows.max() <= 1


def run(*words):
    return CliRunner().invoke(app, ["reduce", *map(str, words)])


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet of texts"])
def test_report(kind, tmp_path):
    (tmp_path / "in").mkdir()
    source = write(kind, tmp_path / "in")
    result = run(source, "--output", tmp_path / "out", "--codes", "3", "--epochs", 2)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {t["codes"] for t in report["trials"]} == {2, 3}
    assert len(report["outliers"]) == 2
    assert all(np.isfinite(t["error"]) for t in report["trials"])
    assert ("precision_at" in report["trials"][0]) == (kind == "parquet of texts")
    page = (tmp_path / "out/report.html").read_text()
    assert report["verdict"][0].split(":")[0] in page
    for mark in ("<script src=", "<link rel", "@import", "url(http"):
        assert mark not in page, "the page must need no network"
    assert {"error.png", "error.svg", "map.png", "map.svg"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }


def test_pca_error_in_a_report_is_the_closed_form(tmp_path):
    (tmp_path / "in").mkdir()
    source = write("idx", tmp_path / "in")
    run(source, "--output", tmp_path / "out", "--codes", "3", "--epochs", 1, "--outliers", 0)
    rows = PIXELS.reshape(120, -1) / 255
    mean = rows[:80].mean(0)
    axes = np.linalg.svd(rows[:80] - mean, full_matrices=False)[2][:3]
    error = np.square((rows[80:] - mean) - (rows[80:] - mean) @ axes.T @ axes).sum(1).mean()
    trials = json.loads((tmp_path / "out/report.json").read_text())["trials"]
    assert next(
        t["error"] for t in trials if (t["method"], t["codes"]) == ("PCA", 3)
    ) == pytest.approx(error, rel=1e-4)


def test_rows_with_nan_are_left_out_and_listed(tmp_path):
    values = DIGITS.data[:50].copy()
    values[3, 3], values[9, 0] = np.nan, np.inf
    np.save(tmp_path / "d.npy", values)
    table = read(tmp_path / "d.npy")
    assert len(table) == 48
    assert [s.split(":")[0] for s in table.skipped] == ["row 3", "row 9"]


def bad(kind, folder):
    path = folder / "d.npy"
    if kind == "constant":
        np.save(path, np.ones((20, 5)))
    elif kind == "one row":
        np.save(path, np.ones((1, 5)))
    elif kind == "pickled":
        np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)
    elif kind == "all nan":
        np.save(path, np.full((20, 5), np.nan))
    elif kind == "not a zip":
        path = folder / "d.zip"
        path.write_bytes(b"PK nothing")
    elif kind == "five axes":
        np.save(path, np.zeros((4, 2, 2, 2, 2)))
    elif kind == "contaminated zip":
        path = folder / "d.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", b"abc" * 1000)
        path.write_bytes(path.read_bytes()[:38] + b"\xff" * 4 + path.read_bytes()[42:])
    elif kind in ("contaminated lzma", "contaminated npz"):
        path = folder / ("d.zip" if kind == "contaminated lzma" else "d.npz")
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_LZMA if kind == "contaminated lzma" else zipfile.ZIP_DEFLATED
        ) as archive:
            archive.writestr("a.png" if kind == "contaminated lzma" else "data.npy", b"abc" * 1000)
        data = bytearray(path.read_bytes())
        data[46:54] = b"\xff" * 8
        path.write_bytes(data)
    elif kind == "contaminated npy":
        np.save(path, np.zeros((5, 4)))
        path.write_bytes(path.read_bytes().replace(b"'descr'", b"'de('cr"))
    elif kind == "empty folder":
        path = folder / "e"
        path.mkdir()
    elif kind == "words only":
        path = folder / "d.csv"
        path.write_text("name,city\nann,rome\nbob,oslo\ncyd,bern\n")
    elif kind == "cut idx":
        idx(folder / "train-images-idx3-ubyte.gz", PIXELS)
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("constant", "nothing to reduce"),
        ("one row", "at least 3"),
        ("pickled", "cannot be read"),
        ("all nan", "0 usable rows"),
        ("not a zip", "zip file"),
        ("contaminated zip", "zip file"),
        ("contaminated lzma", "zip file"),
        ("contaminated npz", "cannot be read"),
        ("contaminated npy", "cannot be read"),
        ("five axes", "holds no rows"),
        ("empty folder", "no pictures"),
        ("words only", "no column of numbers"),
        ("cut idx", "idx file"),
        ("missing", "does not exist"),
    ],
)
def test_bad_data_gets_one_sentence(kind, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv",
        [
            "sfumato",
            "reduce",
            str(bad(kind, tmp_path)),
            "--output",
            str(tmp_path / "out"),
            "--codes",
            "2",
        ],
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--codes", "2,x"], "cannot be read"),
        (["--codes", "64"], "64 is too large"),
        (["--corruption", "nosie:2"], 'did you mean "noise"'),
        (["--size", "-3"], "at least 4"),
        (["--outliers", "2"], "outliers"),
        (["--label", "lable"], 'did you mean "labels"'),
        (["--loss", "magic"], "magic"),
    ],
)
def test_wrong_options_get_one_sentence(words, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    source = write("npz", tmp_path / "in")
    monkeypatch.setattr(
        "sys.argv", ["sfumato", "reduce", str(source), "--output", str(tmp_path / "out"), *words]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_table_is_told_from_pictures_by_its_columns(tmp_path):
    numbers = "bytes,size\n" + "\n".join(f"{k},{k * k}" for k in range(9))
    (tmp_path / "my_idx.csv").write_text(numbers)
    table = read(tmp_path / "my_idx.csv")
    assert (table.kind, table.rows.shape) == ("numbers", (9, 2))
    pictures = pa.table(
        {
            "image": [encoded(k) for k in range(5)],
            "label": list("aabbb"),
            "split": ["train", "train", "test", "extra", "val"],
        }
    )
    pq.write_table(pictures, tmp_path / "p.parquet")
    table = read(tmp_path / "p.parquet")
    assert (table.kind, table.labels.tolist(), table.test.tolist()) == (
        "pictures",
        list("aabb"),
        [False, False, True, True],
    ), "as of any table"


def test_arrays_of_pictures_as_people_save_them(tmp_path):
    """Channels first or last; bytes, integers, 0 to 1, 0 to 16: the rows are the same pictures
    between 0 and 1.
    """
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    values[0, 0, 0] = 0, 255, 0
    for name, array in (
        ("last", values),
        ("first", values.transpose(0, 3, 1, 2)),
        ("int", values.astype(int)),
        ("unit", values / 255),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        table = read(tmp_path / f"{name}.npy")
        assert table.shape == (3, 6, 7)
        assert np.allclose(table.rows, values.transpose(0, 3, 1, 2).reshape(5, -1) / 255, atol=1e-6)
    np.save(tmp_path / "odd.npy", np.zeros((5, 6, 7, 2)))
    with pytest.raises(DataError, match="1, 3 or 4 channels"):
        read(tmp_path / "odd.npy")


def test_an_output_that_is_a_file_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(
        "sys.argv",
        [
            "sfumato",
            "reduce",
            str(write("npz", tmp_path)),
            "--output",
            str(tmp_path / "out"),
            "--codes",
            "2",
        ],
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("out is a file; give a folder\n")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_set_needs_three_rows(tmp_path):
    (tmp_path / "a.txt").write_text("only one")
    with pytest.raises(DataError, match="at least 3"):
        read(tmp_path)


def test_a_table_without_names_of_columns(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(",".join(str(v) for v in row) for row in np.eye(5)))
    assert read(tmp_path / "a.csv").rows.shape == (5, 5), "the first line is a row, too"
    (tmp_path / "iris.csv").write_text(
        "".join(f"5.{k},3.5,{name}\n" for k, name in enumerate(["setosa", "virginica"] * 3))
    )
    flowers = read(tmp_path / "iris.csv", label="f2")
    assert flowers.rows.shape == (6, 2), "it is, beside a label as well"
    assert flowers.labels.tolist() == ["setosa", "virginica"] * 3


def test_labels_of_another_number_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.eye(6), kind=np.arange(4))
    with pytest.raises(DataError, match="has 6 rows in x, but 4 values in kind"):
        read(tmp_path / "a.npz", label="kind")
    (tmp_path / "b.csv").write_text("a,a,b\n" + "1,2,3\n" * 5)
    with pytest.raises(DataError, match="several columns named a"):
        read(tmp_path / "b.csv")


def test_one_hot_labels_and_documents_in_a_zip(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=np.eye(10)[LABELS])
    assert (read(tmp_path / "a.npz").labels == LABELS.astype(str)).all()
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for k, text in enumerate(documents()[0][:8]):
            archive.writestr(f"{'ab'[k % 2]}/{k}.txt", text)
    table = read(tmp_path / "d.zip")
    assert (table.kind, len(table)) == ("documents", 8)
    assert sorted(set(table.labels.tolist())) == ["a", "b"]


def test_labels_of_zero_and_texts_of_numbers(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"{n},{n % 2}\n" for n in range(8)))
    kind, items = items_of(tmp_path / "d.csv")
    assert (kind, [i.label for i in items]) == ("documents", [str(n % 2) for n in range(8)])
    (tmp_path / "e.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path / "e.csv")


def test_progress_moves_within_a_fit():
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    options = ReduceOptions(codes=(2,), epochs=10, outliers=0.1)
    found = compare.start(compare.gather(rows, options), options)
    done = [e.done for e in compare.compare(found) if isinstance(e, Progress)]
    assert done == sorted(done)
    assert done[-1] == 4  # PCA, autoencoder, and both with outliers
    assert any(1 < share < 2 for share in done)
    assert any(3 < share < 4 for share in done)


def test_photos_in_a_zip_that_cannot_be_read_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for k in range(4):
            stream = io.BytesIO()
            Image.fromarray(PIXELS[k]).save(stream, "PNG")
            archive.writestr(f"a/{k}.png", stream.getvalue())
        archive.writestr("a/5.HEIC", b"...")
    (said,) = read(tmp_path / "d.zip").skipped
    assert said.startswith("a/5.HEIC: ")


def test_held_out_rows_that_are_training_rows_are_told():
    rows = np.random.default_rng(0).normal(size=(40, 4))
    options = ReduceOptions(codes=(2,))
    assert compare.start(compare.gather(rows, options), options).table.notes == []
    twice = compare.gather(np.concatenate([rows, rows]), options)
    (note,) = compare.start(twice, options).table.notes
    assert re.match(r"1\d of the 16 held-out rows are equal to training rows", note)


def test_no_code_length_is_no_comparison():
    with pytest.raises(OptionError, match="codes"):
        ReduceOptions(codes=())


def test_a_report_is_not_replaced_by_accident(tmp_path, capsys, monkeypatch):
    (tmp_path / "t.csv").write_text("a,b,c\n" + "".join(f"{k},{k * k},{-k}\n" for k in range(12)))
    words = ["sfumato", "reduce", str(tmp_path / "t.csv"), "--codes", "1", "--epochs", "1"]
    words += ["--output", str(tmp_path / "report")]
    codes = []
    for more in ([], [], ["--overwrite"]):
        monkeypatch.setattr(sys, "argv", words + more)
        with pytest.raises(SystemExit) as ended:
            main()
        codes.append(ended.value.code or 0)
    assert codes == [0, 2, 0]
    assert "report.html exists already; give --overwrite" in capsys.readouterr().err


def test_a_report_does_not_become_data(tmp_path, capsys, monkeypatch):
    write("npz", tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        ["sfumato", "reduce", str(tmp_path), "--output", str(tmp_path / "report"), "--codes", "2"],
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "give another --output" in capsys.readouterr().err


def test_an_unknown_corruption_is_refused_before_any_work():
    with pytest.raises(OptionError, match="nois"):
        ReduceOptions(corruption="nois:25")


@pytest.mark.parametrize("corruption", ["gray", "noise:5+blur:1", "mask:box:0.2", "down:2"])
def test_a_corruption_of_pictures_does_not_fit_a_table(corruption):
    rows = np.random.default_rng(0).normal(size=(30, 6))
    with pytest.raises(OptionError, match="needs pictures"):
        sfumato.reduce(rows, ReduceOptions(codes=(2,), corruption=corruption))
    sfumato.reduce(rows, ReduceOptions(codes=(2,), corruption="mask:0.3+noise:5", epochs=1))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"size": 16}, "--size is for pictures"), ({"weighting": "log"}, "is for documents")],
)
def test_options_of_other_data_are_refused(tmp_path, given, message):
    rows = np.random.default_rng(0).normal(size=(30, 6))
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="a,b,c,d,e,f", comments="")
    with pytest.raises(OptionError, match=message):
        sfumato.reduce(tmp_path / "t.csv", ReduceOptions(codes=(2,), **given))


def test_large_pictures_are_as_small_ones_of_them(tmp_path):
    for k in range(4):
        noise = np.random.default_rng(k).integers(0, 255, (90, 120, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{k}.png")
    Image.fromarray(noise[:20, :20]).save(tmp_path / "small.png")
    table = read(tmp_path)
    assert table.shape == (3, 32, 32)
    expected = np.asarray(image.crop_to(Image.fromarray(noise), (32, 32)), np.float32) / 255
    assert np.array_equal(table.rows[3], expected.transpose(2, 0, 1).ravel())


def test_the_column_of_pictures_is_the_one_of_bytes(tmp_path):
    held = []
    for k in range(4):
        stream = io.BytesIO()
        Image.new("L", (8, 8), 60 * k).save(stream, "PNG")
        held.append(stream.getvalue())
    pq.write_table(
        pa.table({"image": [f"{k}.png" for k in range(4)], "bytes": held}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet").rows.shape == (4, 64)


def test_columns_of_a_table_are_standardized():
    """A column in large units decides nothing; columns that are all the same do no harm."""
    random = np.random.default_rng(0)
    rows = np.stack(
        [
            random.normal(size=80),
            random.normal(size=80),
            random.normal(5e4, 1e4, 80),
            np.full(80, 7.0),
        ],
        axis=1,
    )
    found, raw = (
        sfumato.reduce(rows, ReduceOptions(codes=(2,), epochs=1, outliers=0, standardize=s))
        for s in (True, False)
    )
    assert np.allclose(found.train.std(axis=0), [1, 1, 1, 0], atol=1e-5)
    assert np.allclose(found.train.mean(axis=0), 0, atol=1e-5)
    pca = [next(t.error for t in f.trials if t.method == "PCA") for f in (found, raw)]
    assert pca[0] < 2 < pca[1] * 10, "in deviations, and in units"
    assert "standardized" in found.verdict()[-1] and "own units" in raw.verdict()[-1]


def test_a_perfect_fit_gives_no_ratio(tmp_path):
    line = np.linspace(0, 1, 40)[:, None] @ np.ones((1, 6))
    found = sfumato.reduce(line, ReduceOptions(codes=(1,), epochs=1))
    assert any("rises from 0 to" in sentence for sentence in found.verdict())
    assert found == found and found != copy.copy(found), "arrays are not compared"


def test_a_measured_number_is_no_label(run, tmp_path):
    rows = "".join(f"{k},{k * k % 7},{k % 3},{k / 7}\n" for k in range(30))
    (tmp_path / "t.csv").write_text(f"a,b,c,target\n{rows}")
    code, _, err = run("reduce", "t.csv", "--codes", 2, "--epochs", 1, "--output", "r")
    assert code == 0 and "the labels are measured numbers" in err
    told = json.loads((tmp_path / "r" / "report.json").read_text())
    words = ("--codes", 2, "--epochs", 1, "--output", "s", "--label", "target")
    assert "measured" not in run("reduce", "t.csv", *words)[2], "asked for"
    assert not any("knn_accuracy" in trial for trial in told["trials"])


def test_a_split_is_used_and_not_called_left_out(run, tmp_path):
    parts = ["train"] * 20 + ["test"] * 10
    rows = "".join(f"{k},{k * k % 7},{k % 3},{part}\n" for k, part in enumerate(parts))
    (tmp_path / "t.csv").write_text(f"a,b,c,split\n{rows}")
    code, _, err = run("reduce", "t.csv", "--codes", 2, "--epochs", 1, "--output", "r")
    assert code == 0 and "split" not in err
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "map.png").write_bytes(b"mine")
    code, _, err = run("reduce", "t.csv", "--codes", 2, "--epochs", 1, "--output", "q")
    assert code == 2 and "map.png exists already" in err


def test_one_column_and_texts_with_numbers_are_told(run, tmp_path):
    (tmp_path / "one.csv").write_text("a\n" + "".join(f"{k}\n" for k in range(20)))
    assert "at least two are needed" in run("reduce", "one.csv", "--codes", 1)[2]
    words = ("apple pear", "ship wave", "car road")
    lines = "".join(f"{words[k % 3]} {k},{k}\n" for k in range(12))
    (tmp_path / "text.csv").write_text(f"text,n\n{lines}")
    assert "n: not used, because the column text" in "\n".join(read(tmp_path / "text.csv").notes)
    lines = "".join(f"{k},{words[k % 3]} {k}\n" for k in range(12))
    (tmp_path / "both.csv").write_text(f"content,text\n{lines}")
    assert read(tmp_path / "both.csv").kind == "documents", "the column of texts, not of numbers"


def test_arrays_are_treated_as_files_are():
    rows = np.random.default_rng(0).normal(size=(30, 6))
    rows[3, 2] = np.nan
    found = sfumato.reduce(rows, {"codes": (2,), "epochs": 1, "outliers": 0})
    assert found.table.skipped == ["row 3: it holds NaN or infinity"]
    pictures = sfumato.reduce(PIXELS[:40], ReduceOptions(codes=(2,), epochs=1, outliers=0))
    assert pictures.table.shape == (1, 8, 8)
    with pytest.raises(DataError, match="an array of shape"):
        sfumato.reduce(np.zeros(5))
    how = {"codes": (2,), "epochs": 1, "outliers": 0}
    assert len(sfumato.reduce(rows.astype(object), how).table) == 29
    with pytest.raises(DataError, match="cannot be converted to numbers"):
        sfumato.reduce(np.array([["a", "b"]] * 5), how)


def test_a_report_leaves_matplotlib_as_it_was(tmp_path):
    """In a notebook, other figures keep their backend and their settings."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    found = sfumato.reduce(
        np.random.default_rng(0).normal(size=(40, 3)), ReduceOptions(codes=(2,), epochs=1)
    )
    report.write(found, tmp_path, "noise")
    assert dict(matplotlib.rcParams) == before
