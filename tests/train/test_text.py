"""Text encoders learn from a teacher, and more words later."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.train.common import write_plans

from sfumato.errors import DataError, TrainingError
from sfumato.hub.load import load
from sfumato.train.plan import text_encoder
from sfumato.train.text import Phrases, train_text


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


GOOD = {
    "text": ["a", "b", "c"],
    "weight": [1.0] * 3,
    "embedding": [[1.0, 2.0], [0.5, 1.0], [2.0, 1.0]],
    "kept": [True, False, False],
}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text": [1, 2, 3]}, "column text has the type int64"),
        ({"kept": ["no", "no", "no"]}, "column kept has the type string"),
        ({"embedding": [[1.0], [float("nan")], [2.0]]}, "embeddings must be finite"),
        ({"embedding": [[1.0], [1e6], [2.0]]}, "embeddings must be finite"),
        ({"embedding": [[1.0], [None], [2.0]]}, "embeddings must be finite"),
        ({"embedding": [["x"], ["y"], ["z"]]}, "embeddings lists of numbers"),
        ({"embedding": [1.0, 2.0, 3.0]}, "embeddings lists of numbers"),
        ({"embedding": [[1.0], [1.0, 2.0], [2.0]]}, "the same length"),
        ({"embedding": pa.array([[], [], []], pa.list_(pa.float32()))}, "at least 1"),
        ({"weight": ["x", "y", "z"]}, "weights must be numbers"),
    ],
)
def test_wrong_phrases_get_one_sentence(tmp_path, wrong, said):
    pq.write_table(pa.table(GOOD), tmp_path / "a.parquet")
    assert Phrases.read(tmp_path / "a.parquet").kept.tolist() == GOOD["kept"]
    pq.write_table(pa.table({**GOOD, **wrong}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=said):
        Phrases.read(tmp_path / "a.parquet")
