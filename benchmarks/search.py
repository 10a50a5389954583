"""Measure the time of an exact query, and test an index whose build is killed twenty times.

The query runs over 100,000 codes of 30 numbers.

python benchmarks/search.py
"""

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.neighbors import NearestNeighbors

from sfumato import PCA
from sfumato.tasks.search import database as work

COUNT, CODES, QUERIES, KILLS = 100_000, 30, 50, 20
SCRIPT = """
import sys
from pathlib import Path
from sfumato.tasks.search.index import index
index(Path(sys.argv[1]), Path(sys.argv[2]), "lsa:10")
"""


def query_time(folder):
    """Print the median time of the query that `sfumato search` runs, and whether it is exact."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(COUNT, CODES)).astype(np.float32)
    PCA(CODES).fit(rows[:1000]).save(folder / "space")
    fields = {n: [f"{n} {k}" for k in range(COUNT)] for n in ("name", "stamp", "label", "text")}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), CODES)
    table = lancedb.connect(folder / "database").create_table(
        work.TABLE, pa.table({**fields, "vector": vectors})
    )
    asked = rng.normal(size=(QUERIES, CODES)).astype(np.float32)
    true = (
        NearestNeighbors(n_neighbors=12, metric="cosine", algorithm="brute")
        .fit(rows)
        .kneighbors(asked, return_distance=False)
    )
    seconds, right = [], 0
    for query, want in zip(asked, true, strict=True):
        started = time.perf_counter()
        found = work.nearest(table, query, 12)
        seconds.append(time.perf_counter() - started)
        right += [r["name"] for r in found] == [f"name {k}" for k in want]
    middle = 1000 * statistics.median(seconds)
    print(
        f"{COUNT:,} codes of {CODES} numbers: exact query {middle:.1f} ms (median of {QUERIES}), "
        f"{right} of {QUERIES} results equal scikit-learn's"
    )


def documents(folder, count=6000):
    """A table of random texts."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(500)]
    path = folder / "texts.parquet"
    pq.write_table(
        pa.table({"text": [" ".join(rng.choices(words, k=30)) for _ in range(count)]}), path
    )
    return path


def contents(folder):
    """All rows of an index, in order of their names."""
    table = lancedb.connect(folder / "database").open_table(work.TABLE)
    return sorted(
        (r["name"], r["stamp"], tuple(r["vector"])) for r in table.search().limit(None).to_list()
    )


def killed(folder):
    """Kill indexing at random points, finish it, and compare with an undisturbed index."""
    source, words = documents(folder), [sys.executable, "-c", SCRIPT]
    started = time.perf_counter()
    subprocess.run([*words, source, folder / "whole"], check=True, capture_output=True)
    whole = time.perf_counter() - started
    hits = 0
    for k in range(KILLS):
        run = subprocess.Popen(
            [*words, source, folder / "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(random.Random(k).uniform(0.2, 1.0) * whole)
        hits += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
    subprocess.run([*words, source, folder / "parts"], check=True, capture_output=True)
    same = contents(folder / "whole") == contents(folder / "parts")
    print(
        f"index of {len(contents(folder / 'whole'))} texts killed {hits} times (of {KILLS} tries), "
        f"then finished: {'equal' if same else 'NOT equal'}"
    )


def main():
    """Measure the query time, and test the killed index."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        query_time(Path(first))
        killed(Path(second))


if __name__ == "__main__":
    main()
