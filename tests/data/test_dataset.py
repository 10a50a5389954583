"""Numbers keep their values, and what is left out is counted."""

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.datasets import load_wine
from sklearn.feature_extraction.text import CountVectorizer

import sfumato
from sfumato import image
from sfumato.data.rows import read, table_of
from sfumato.data.samples import find
from sfumato.data.terms import Terms
from sfumato.errors import DataError, OptionError
from sfumato.tasks.reduce.compare import gather, start
from sfumato.tasks.reduce.options import ReduceOptions

OPTIONS = ReduceOptions(codes=(2,), epochs=1, outliers=0)


def standardized(data):
    return start(gather(data, OPTIONS), OPTIONS).train


@pytest.mark.parametrize("shift", [1e9, 1.7e12])
def test_a_large_offset_does_not_change_standardized_columns(shift, tmp_path):
    """Float32 has 7 digits: a column of times in milliseconds would become constant."""
    rows = np.random.default_rng(0).normal(0, [1, 40, 900], (60, 3))
    want = standardized(rows)
    assert abs(standardized(rows + shift) - want).max() < 1e-3
    frame = pandas.DataFrame(rows + shift, columns=list("abc"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    for name in ("t.csv", "t.parquet"):
        assert abs(standardized(tmp_path / name) - want).max() < 1e-3


def test_large_values_are_standardized():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    assert abs(standardized(rows * [1, 1e300, 1e-300]) - standardized(rows)).max() < 1e-6
    plain = ReduceOptions(codes=(2,), standardize=False)
    with pytest.raises(DataError, match="too large for float32.*--no-standardize"):
        start(gather(rows * 1e300, plain), plain)


def test_a_column_of_mostly_missing_values_is_left_out():
    frame = pandas.DataFrame(load_wine().data, columns=[f"c{k}" for k in range(13)])
    frame["few"] = [1.0, 2.0, 3.0] + [np.nan] * (len(frame) - 3)
    frame.loc[[5, 7, 9], "c1"] = np.nan
    frame.loc[7, "c2"] = np.inf
    table = table_of(frame)
    assert table.rows.shape == (175, 13) and "few" not in table.columns
    assert table.skipped == [
        "column few: 98% of its values are missing",
        "row 5: c1 holds NaN or infinity",
        "row 7: c1, c2 hold NaN or infinity",
        "row 9: c1 holds NaN or infinity",
    ]
    assert table.notes == ["3 of 178 rows are left out, with missing values by column: c1 3, c2 1"]
    with pytest.warns(UserWarning, match="3 of 178 rows are left out"):
        sfumato.reduce(frame, OPTIONS)


def test_an_error_names_the_first_row_and_its_column():
    frame = pandas.DataFrame({"a": [1.0, 2, np.nan, np.nan], "b": [1.0, np.nan, 3, np.nan]})
    frame["when"] = "today"
    with pytest.raises(DataError, match="1 usable rows.*first problem is row 1: b holds NaN"):
        table_of(frame)


def test_a_data_frame_is_read_like_a_file(tmp_path):
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=list("xyz"))
    frame["when"] = pandas.Timestamp("2020-01-01")
    frame["target"] = ["left", "right"] * 15
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    ours, theirs = table_of(frame), read(tmp_path / "t.parquet")
    assert np.array_equal(ours.rows, theirs.rows) and ours.columns == ["x", "y", "z"]
    assert ours.labels.tolist() == theirs.labels.tolist() == frame["target"].tolist()
    assert ours.skipped == theirs.skipped == ["column when: no numbers"]
    numbers = frame.assign(group=[1, 2, 3] * 10)
    assert set(table_of(numbers, "group").labels) == {"1", "2", "3"}
    classes = frame.drop(columns="target").assign(y=["a", "b"] * 15)
    assert set(table_of(classes).labels) == {"a", "b"} and table_of(classes).columns == ["x", "z"]
    with pytest.raises(OptionError, match="unknown column"):
        table_of(frame, "grup")


def test_texts_and_files_in_memory(tmp_path):
    texts = table_of(["a cat sat", "a dog ran", "a cat ran", " "])
    assert texts.kind == "documents" and texts.skipped == ["row 3: it is empty"]
    for k in range(4):
        Image.new("RGB", (8, 8), (k * 60, 0, 0)).save(tmp_path / f"{k}.png")
    paths = sorted(tmp_path.glob("*.png"))
    assert table_of(paths).shape == (3, 8, 8)
    with pytest.raises(DataError, match="cannot be converted"):
        table_of([np.zeros((3, 4)), np.zeros((5, 6))])


def test_a_fit_on_few_rows_goes_on_exactly():
    rows = np.random.default_rng(0).normal(size=(90, 80))
    few = sfumato.PCA(3).fit(rows[:10])
    for start_ in (10, 50):
        few.partial_fit(rows[start_ : start_ + 40])
    whole = sfumato.PCA(3).fit(rows)
    assert abs(few.components_ - whole.components_).max() < 1e-10
    assert abs(few.mean_ - whole.mean_).max() < 1e-12
    assert abs(few.explained_variance_ratio_ - whole.explained_variance_ratio_).max() < 1e-12


def test_words_of_languages_without_spaces():
    texts = ["红苹果很好吃", "青苹果", "快车", "赤いリンゴ and iPhone 手机", "ein Äpfelchen"]
    terms = Terms.fit(texts)
    assert {"苹", "果", "iphone", "リ", "äpfelchen"} <= set(terms.words)
    rows = terms(["苹果", "车"]).toarray()
    codes = terms(texts).toarray()
    assert (codes @ rows[0]).argmax() == 1 and (codes @ rows[1]).argmax() == 2
    english = ["The red apple's a4 x-ray", "two_words and 3 cats"]
    usual = CountVectorizer(stop_words="english").fit(english).get_feature_names_out()
    assert Terms.fit(english).words == tuple(usual)


def test_an_ico_is_a_picture(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.ico")
    assert image.read(tmp_path / "a.ico").getpixel((5, 5)) == (255, 0, 0)
    assert len(list(find(tmp_path))) == 1
