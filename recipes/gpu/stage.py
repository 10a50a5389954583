"""Train on a GPU for a given time, and write the weights in small files.

    python recipes/gpu/stage.py OUT [--seconds 540] [--toy] -- diffusion DATA --start icons --full
    python recipes/gpu/stage.py join OUT FOLDER

The arguments after ``--`` are the arguments of ``sfumato train``, without ``--steps`` and
``--output``. A short first run measures the speed of training. The main run then takes as many
steps as fit into the given time. Its weights are written to OUT in float16, in files of at most 15
MB, together with ``log.json``; ``join`` combines these files again. ``--toy`` trains for three
steps on forty rows without compiling, to try a stage on a CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

PROBE = 400  # steps of the first run
RESERVE = 60.0  # seconds to load, compile and save
LARGEST = 15_000_000  # bytes of a file
RATE = re.compile(r"([\d.e+]+) samples/s")


def main() -> None:
    """Run a stage, or join its files."""
    if sys.argv[1:2] == ["join"]:
        join(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    given, words = sys.argv[1:], list[str]()
    if "--" in given:
        place = given.index("--")
        given, words = given[:place], given[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args(given)
    if not words:
        parser.error("the arguments of sfumato train are missing: give them after --")
    stage(words, asked.out, asked.seconds, asked.batch, toy=asked.toy)


def stage(words: list[str], out: Path, seconds: float, batch: int, *, toy: bool) -> None:
    """Measure the speed, train, and write the weights in parts."""
    started, work = time.monotonic(), out.with_name(out.name + "-work")
    batch, steps = (2, 3) if toy else (batch, PROBE)
    if toy:
        words = toys(words, work)
    told = train(words, work / "probe", steps, batch)
    log = {"command": words, "batch": batch, "probe_seconds": round(time.monotonic() - started, 1)}
    if not toy:
        rates = RATE.findall(told)
        if not rates:  # sfumato prints its speed only after ten seconds
            raise SystemExit(
                f"{steps} steps took too little time to measure the speed; increase PROBE"
            )
        rate = float(rates[-1])
        steps = int(rate * (seconds - RESERVE - (time.monotonic() - started)) / batch)
        log["probe_samples_per_second"] = rate
    run = work / "run"
    run.mkdir(parents=True, exist_ok=True)
    for cache in work.glob("probe/**/cache"):  # reuse the latents and text states of the first run
        shutil.move(cache, run / cache.relative_to(work / "probe"))
    told = train(words, run, steps, batch)
    rates = RATE.findall(told)
    log |= {"steps": steps, "seconds": round(time.monotonic() - started, 1)}
    log |= {"samples_per_second": float(rates[-1])} if rates else {}
    out.mkdir(parents=True, exist_ok=True)
    log["files"] = cut(run, out)
    (out / "log.json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log))


def toys(words: list[str], folder: Path, rows: int = 40) -> list[str]:
    """Return the same command for the first rows of the data, without compiling."""
    folder.mkdir(parents=True, exist_ok=True)
    data, place = Path(words[1]), words.index("--config") + 1
    first = next(pq.ParquetFile(data).iter_batches(rows))
    pq.write_table(pa.Table.from_batches([first]), folder / data.name)
    config = json.loads(Path(words[place]).read_text())
    config["settings"]["compile"] = False
    if "trajectories" in config:
        config["trajectories"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    words = [words[0], str(folder / data.name), *words[2:]]
    return [*words[:place], str(folder / "config.json"), *words[place + 1 :]]


def train(words: list[str], output: Path, steps: int, batch: int) -> str:
    """Run ``sfumato train``; print its output and return it."""
    command = [sys.executable, "-m", "sfumato", "train", *words, "--output", str(output)]
    command += ["--steps", str(steps), "--batch", str(batch)]
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as work:
        assert work.stdout is not None
        for line in work.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if work.returncode:
        raise SystemExit(work.returncode)
    return "".join(said)


def cut(run: Path, out: Path) -> dict[str, list[str]]:
    """Write the weights of a run in float16 and in parts; return the parts of each file."""
    parts: dict[str, list[str]] = {}
    for path in sorted(run.rglob("*.safetensors")):
        if path.name.startswith("checkpoint"):
            continue
        name, held, size = str(path.relative_to(run)), {}, 0
        for key, value in [*load_file(path).items(), ("", None)]:
            half = None if value is None else value.half().contiguous()
            if held and (half is None or size + half.nbytes > LARGEST):
                file = f"{name.replace('/', '.')}.{len(parts.get(name, []))}"
                save_file(held, out / file)
                parts.setdefault(name, []).append(file)
                held, size = {}, 0
            if half is not None:
                held[key] = half
                size += half.nbytes
    return parts


def join(out: Path, folder: Path) -> None:
    """Combine the parts into the files of the run."""
    for name, parts in json.loads((out / "log.json").read_text())["files"].items():
        weights: dict[str, torch.Tensor] = {}
        for part in parts:
            weights |= load_file(out / part)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / name)
        print(folder / name, f"{len(parts)} parts")


if __name__ == "__main__":
    main()
