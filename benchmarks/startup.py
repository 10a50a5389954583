"""Measure how much longer `sfumato create` takes than importing torch.

Whole processes are timed in alternation; the benchmark prints medians.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
COMMANDS = {
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "sfumato create 'a red apple'": [
        sys.executable,
        "-m",
        "sfumato",
        "create",
        "a red apple",
        "--overwrite",
        "--seed",
        "1",
        "--output",
        "OUT",
    ],
    "sfumato --help": [sys.executable, "-m", "sfumato", "--help"],
}


def main():
    """Print median seconds, and the difference."""
    seconds = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(ROUNDS + 1):
            for name, words in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(
                    [str(Path(folder) / "a.png") if w == "OUT" else w for w in words],
                    check=True,
                    capture_output=True,
                )
                if k:  # the first round fills the disk cache
                    seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    for name, median in medians.items():
        print(f"{name:32s} {median:6.2f} s")
    torch, create, _ = medians.values()
    print(f"create above import torch        {create - torch:6.2f} s")


if __name__ == "__main__":
    main()
