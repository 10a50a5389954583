"""Compare PCA with scikit-learn, in memory and from a file that is larger than the memory.

    python benchmarks/pca.py                # 60,000 x 784 in memory, 2,000,000 x 784 from disk
    python benchmarks/pca.py --rows 200000  # a smaller file than the default of 6.3 GB
    python benchmarks/pca.py --mnist DIR    # also the error on MNIST; DIR holds its four idx files
    python benchmarks/pca.py --few          # only few rows of many columns: an SVD, or moments

In memory, the fits alternate, and the benchmark prints median times. Few rows are also fitted by
their moments, to show from which number of columns an SVD is faster. From disk, sfumato's
`partial_fit` reads the whole file. scikit-learn's IncrementalPCA reads only the first tenth,
because it is slower by an order of magnitude. Each of the two runs in its own process, whose peak
memory is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sklearn.decomposition

from sfumato import PCA
from sfumato.space.pca import Moments, Sketch

COLUMNS, CHUNK, CODES, ROUNDS = 784, 8192, 30, 5
STREAM = """
import json, re, sys, time
import numpy as np
kind, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "sfumato":
    from sfumato import PCA
    model = PCA(30)
else:
    from sklearn.decomposition import IncrementalPCA
    model = IncrementalPCA(30)
seconds, done = 0.0, 0
with open(path, "rb") as f:
    while done < count:
        rows = np.fromfile(f, np.float32, min(8192, count - done) * 784).reshape(-1, 784)
        begun = time.perf_counter()
        model.partial_fit(rows)
        seconds += time.perf_counter() - begun
        done += len(rows)
begun = time.perf_counter()
components = model.components_
seconds += time.perf_counter() - begun
np.save(sys.argv[4], components)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"seconds": seconds, "rows": done, "megabytes": peak}))
"""


def rows(count, seed):
    """Return random rows whose spectrum falls as it does for pictures."""
    rng = np.random.default_rng(seed)
    scales = (1 / np.arange(1, 65)).astype(np.float32)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(COLUMNS, 64)))[0].T.astype(np.float32)
    return (
        (rng.standard_normal((count, 64), np.float32) * scales) @ axes
        + 0.01 * rng.standard_normal((count, COLUMNS), np.float32)
        + 0.5
    )


def in_memory():
    """Print the seconds to fit 60,000 rows."""
    x = rows(60_000, 1)
    solvers = {"sfumato": lambda: PCA(CODES).fit(x).components_}
    for name in ("auto", "full", "randomized"):
        solvers[f"scikit-learn {name}"] = lambda name=name: (
            sklearn.decomposition.PCA(CODES, svd_solver=name, random_state=0).fit(x).components_
        )
    seconds = {name: [] for name in solvers}
    for k in range(ROUNDS + 1):
        for name, fit in solvers.items():
            if name.endswith("full") and k > 1:
                continue
            time.sleep(0.5)  # threads of the previous program may still be busy-waiting
            started = time.perf_counter()
            fit()
            if k:
                seconds[name].append(time.perf_counter() - started)
    mine = statistics.median(seconds["sfumato"])
    print(f"in memory, 60,000 x {COLUMNS} float32, {CODES} codes, medians of {ROUNDS}")
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"  {name:24s} {middle:6.2f} s sfumato is {middle / mine:.2f}x as fast")


def few_rows():
    """Compare an SVD of few rows with their moments, and with scikit-learn's full SVD."""
    for count, columns in ((20, 3072), (300, 3072), (500, 4096), (1000, 4096), (1500, 3072)):
        data = np.random.default_rng(0).normal(size=(count, columns)).astype(np.float32)
        fits = {
            "SVD": lambda data=data: svd(data),
            "moments": lambda data=data: Moments.of(data).solve(2),
            "scikit-learn": lambda data=data: sklearn.decomposition.PCA(2, svd_solver="full").fit(
                data
            ),
        }
        seconds = {name: [] for name in fits}
        for _ in range(ROUNDS):
            for name, fit in fits.items():
                begun = time.perf_counter()
                fit()
                seconds[name].append(time.perf_counter() - begun)
        told = ", ".join(f"{name} {statistics.median(s):.3f} s" for name, s in seconds.items())
        print(f"{count} x {columns}: {told}")


def svd(data):
    """Fit a sketch that keeps all directions: one SVD of the rows."""
    sketch = Sketch(data.shape[1])
    sketch.add(data)
    return sketch.solve(2)


def from_disk(count):
    """Print the rate and the peak memory of fitting a file."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "rows.f32"
        with path.open("wb") as f:
            for k, start in enumerate(range(0, count, 50_000)):
                rows(min(50_000, count - start), 100 + k).tofile(f)
        print(f"from disk, {count:,} x {COLUMNS} float32 ({path.stat().st_size / 1e9:.1f} GB)")
        found = {}
        for kind, part in (("sfumato", count), ("scikit-learn", count // 10)):
            saved = Path(folder) / f"{kind}.npy"
            out = subprocess.run(
                [sys.executable, "-c", STREAM, kind, path, str(part), saved],
                capture_output=True,
                text=True,
                check=True,
            )
            found[kind] = json.loads(out.stdout) | {"components": np.load(saved)}
            rate = found[kind]["rows"] / found[kind]["seconds"]
            print(
                f"  {kind:14s} {part:>9,} rows in {found[kind]['seconds']:7.1f} s, {rate:8,.0f} "
                f"rows/s, peak {found[kind]['megabytes']:.0f} MB"
            )
        ours, theirs = found["sfumato"], found["scikit-learn"]
        ratio = ours["rows"] / ours["seconds"] / (theirs["rows"] / theirs["seconds"])
        exact = exact_components(path, count)
        error = np.abs(np.abs(np.einsum("kd,kd->k", exact, ours["components"])) - 1).max()
        print(
            f"  sfumato is {ratio:.1f}x as fast; its components against a float64 covariance: 1 - "
            f"|cosine| at most {error:.1e}"
        )


def exact_components(path, count):
    """Compute the components with NumPy in float64, in two passes."""
    x = np.memmap(path, np.float32, mode="r", shape=(count, COLUMNS))
    mean = (
        sum(x[k : k + CHUNK].sum(axis=0, dtype=np.float64) for k in range(0, count, CHUNK)) / count
    )
    gram = np.zeros((COLUMNS, COLUMNS))
    for k in range(0, count, CHUNK):
        part = x[k : k + CHUNK].astype(np.float64) - mean
        gram += part.T @ part
    return np.linalg.eigh(gram)[1].T[::-1][:CODES]


def mnist(folder):
    """Print the squared error per test digit of MNIST."""
    from sfumato.data.rows import read

    table = read(folder)
    model = PCA(CODES).fit(table.rows[~table.test])
    theirs = sklearn.decomposition.PCA(CODES, svd_solver="full").fit(
        table.rows[~table.test].astype(np.float64)
    )
    signs = np.sign((model.components_ * theirs.components_).sum(axis=1, keepdims=True))
    gap = np.abs(model.components_ * signs - theirs.components_).max()
    print(
        f"MNIST, {CODES} codes: squared error of a test digit "
        f"{-model.score(table.rows[table.test]):.3f}; largest difference of the components from "
        f"scikit-learn's {gap:.1e}"
    )


def main():
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--few", action="store_true")
    arguments = parser.parse_args()
    if arguments.few:
        few_rows()
        return
    if arguments.mnist:
        mnist(arguments.mnist)
    in_memory()
    from_disk(arguments.rows) if arguments.rows else None


if __name__ == "__main__":
    main()
