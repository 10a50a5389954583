"""Compare the speed of dtype `auto` with float32 and bfloat16 on this machine.

    python benchmarks/dtype.py [--rounds 3] [--only restore restorer diffusion estimator]

The jobs are restoring, training and fitting. The three dtypes take turns. The benchmark prints the
median seconds, and the ratio of auto's time to the shorter time of the other two dtypes.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfumato import Autoencoder, Photo, RestoreOptions, restore
from sfumato.runtime import choose_dtype
from sfumato.tasks.restore.networks import RestorationNetworks
from sfumato.train.diffusion import train_diffusion
from sfumato.train.restoration import train_restorer

DTYPES = ("auto", "float32", "bfloat16")


def picture(width, height):
    """Soft waves with noise; the content of a picture does not change the computing time."""
    random = np.random.default_rng(0)
    waves = 128 + 80 * np.sin(
        np.arange(height)[:, None, None] / 9 + np.arange(width)[:, None] / 7 + np.arange(3)
    )
    return (waves + random.normal(0, 15, waves.shape)).clip(0, 255).astype(np.uint8)


def folder(count, side):
    """A folder of captioned pictures."""
    place = Path(tempfile.mkdtemp())
    for k in range(count):
        Image.fromarray(picture(side, side)).save(place / f"{k}.png")
        (place / f"{k}.txt").write_text("a wave")
    return place


def restoring(dtype):
    """Denoise a picture of 0.15 megapixels with sigma 25."""
    photo, engine = Photo(picture(480, 320)), RestorationNetworks(dtype=dtype)
    # reads the weights before the timing
    restore(Photo(picture(64, 64)), RestoreOptions(denoise=25.0), engine)
    return lambda: restore(photo, RestoreOptions(denoise=25.0), engine)


def training_a_restorer(dtype):
    """Train a restorer for 20 steps with 8 crops each."""
    data = folder(4, 128)
    settings = {"steps": 20, "dtype": dtype}
    return lambda: list(
        train_restorer(data, Path(tempfile.mkdtemp()), "noise:0-50", None, settings)
    )


def training_diffusion(dtype):
    """Fine-tune the bundled model for 20 steps with 8 pictures each."""
    data = folder(4, 64)
    settings = {"steps": 20, "batch": 8, "dtype": dtype}
    return lambda: list(
        train_diffusion(data, Path(tempfile.mkdtemp()), None, None, None, settings, "icons")
    )


def fitting(dtype):
    """Fit a 784-1000-500-250-30 autoencoder to 5,000 rows for five epochs."""
    rows = np.random.default_rng(0).normal(size=(5000, 784)).astype(np.float32)
    return lambda: Autoencoder(
        30, layers=(1000, 500, 250), epochs=5, random_state=0, dtype=dtype
    ).fit(rows)


JOBS = {
    "restore": restoring,
    "restorer": training_a_restorer,
    "diffusion": training_diffusion,
    "estimator": fitting,
}


def main():
    """Print a row per job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    name = torch.backends.cpu.get_cpu_capability()
    print(
        f"{torch.get_num_threads()} threads, {name}; auto is "
        f"{choose_dtype('auto', torch.device('cpu'))}; seconds, medians of {given.rounds}"
    )
    for job in given.only:
        works = {dtype: JOBS[job](dtype) for dtype in DTYPES}
        seconds = {dtype: [] for dtype in DTYPES}
        for _ in range(given.rounds):
            for dtype, work in works.items():
                start = time.perf_counter()
                work()
                seconds[dtype].append(time.perf_counter() - start)
        median = {dtype: statistics.median(s) for dtype, s in seconds.items()}
        ratio = median["auto"] / min(median["float32"], median["bfloat16"])
        print(
            f"{job:10s} "
            + "  ".join(f"{d} {s:6.2f}" for d, s in median.items())
            + f"  auto / better: {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
