"""Compare Muon with AdamW on training a restorer for noise.

    python recipes/photos/select_photos.py photos_train_open.parquet build/photos photos64.parquet
    python benchmarks/optimizer.py build/photos [--steps 500]

All runs start from the same initial weights, and use the same crops and the same number of steps.
The learning rate falls linearly to zero. The benchmark prints the PSNR on held-out photographs.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from sfumato.denoiser.restorer import RestorerConfig
from sfumato.metrics import psnr
from sfumato.progress import result_of
from sfumato.runtime import autocast, choose_dtype
from sfumato.train.loop import train
from sfumato.train.restorer import RestorerJob, read_photos
from sfumato.train.settings import TrainSettings
from sfumato.types import Condition

RUNS = [
    ("adamw", 0.001),
    ("adamw", 0.002),
    ("adamw", 0.004),
    ("muon", 0.001),
    ("muon", 0.002),
    ("muon", 0.004),
]
CPU = torch.device("cpu")
CROP, SIGMAS = 72, (15, 25, 50)


def restored(job, photos, sigma):
    """Return the mean PSNR of the photos after adding and removing noise."""
    random, each = torch.Generator().manual_seed(sigma), []
    for photo in photos:
        x = torch.from_numpy(photo).float()[None] / 127.5 - 1
        y = x + sigma / 127.5 * torch.randn(x.shape, generator=random)
        with torch.inference_mode(), autocast(CPU, choose_dtype("auto", CPU)):
            made = job.denoiser(y, torch.tensor([sigma / 127.5]), Condition()).float()
        each.append(
            psnr(
                *(
                    (127.5 * (v[0].permute(1, 2, 0).double().numpy() + 1)).clip(0, 255)
                    for v in (made, x)
                )
            )
        )
    return statistics.fmean(each)


def main():
    """Print a row per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    photos, aside = (
        result_of(read_photos(given.folder / f"{name}.parquet", CROP))[0]
        for name in ("train", "val")
    )
    print(
        f"{given.steps} steps of 14 crops of {CROP}x{CROP}; PSNR in dB for noise with sigma "
        f"{', '.join(map(str, SIGMAS))}, {len(aside)} pictures"
    )
    for optimizer, rate in RUNS:
        torch.manual_seed(0)
        job = RestorerJob(RestorerConfig(), photos, ["noise:0-75", "noise:5-55"], CROP, 0.35)
        settings = TrainSettings(
            steps=given.steps,
            batch=14,
            learning_rate=rate,
            optimizer=optimizer,
            warmup=50,
            cooldown=1.0,
            weight_decay=0.0,
            ema_decay=0.99,
        )
        started = time.perf_counter()
        for _ in train(job, settings):
            pass
        each = (time.perf_counter() - started) / given.steps
        job.module.eval()
        print(
            f"{optimizer:6s} rate {rate:.3f}"
            + "".join(f"{restored(job, aside, s):8.2f}" for s in SIGMAS)
            + f"   {each:.3f} s a step",
            flush=True,
        )


if __name__ == "__main__":
    main()
