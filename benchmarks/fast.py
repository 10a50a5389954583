"""Compare ``create --fast`` with ``create``: seconds per picture after loading the model.

    python benchmarks/fast.py [--model icons] [--batch 1 8] [--rounds 5]

The two variants take turns. PyTorch chooses the number of threads; set OMP_NUM_THREADS=1 to measure
one core.
"""

import argparse
import statistics
import time

import torch

from sfumato.hub.load import load
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create

PROMPTS = ["a red apple", "a dog", "a house", "a blue car", "a tree", "a fish", "a star", "a cat"]


def main():
    """Print a line per batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="icons")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    models = {fast: load(given.model, fast=fast) for fast in (False, True)}
    for batch in given.batch:
        prompts, seconds = (PROMPTS * batch)[:batch], {False: [], True: []}
        for turn in range(given.rounds + 1):  # the first round is a warm-up
            for fast, model in models.items():
                options = CreateOptions(model=given.model, seed=turn, batch=batch, fast=fast)
                started = time.perf_counter()
                create(prompts, options, model)
                if turn:
                    seconds[fast].append((time.perf_counter() - started) / batch)
        usual, fast = (statistics.median(seconds[kind]) for kind in (False, True))
        print(
            f"batch size {batch}: {usual:.3f} s per picture, --fast {fast:.3f} s per picture, "
            f"{usual / fast:.1f} times as fast; {torch.get_num_threads()} threads"
        )


if __name__ == "__main__":
    main()
