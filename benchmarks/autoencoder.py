"""Compare the training rate of a 784-1000-500-250-30 autoencoder with PyTorch and scikit-learn.

    python benchmarks/autoencoder.py [--batch 1000]

The programs are sfumato, a plain PyTorch loop in float32, and scikit-learn's MLPRegressor. Each
program trains on the same 20,000 rows with Adam, in batches of 256 rows by default (the 2006 paper
used 1000). In each of five rounds, each program trains for one epoch, with a pause before it. The
rates are medians of the five rounds. The error after the rounds is printed next to the rate,
because a loss of precision would show in it. The last line is the limit of the machine: the rate of
the matrix products of a training step without anything else, in float32 and in bfloat16.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn

from sfumato import Autoencoder
from sfumato.runtime import keep_memory

WIDTHS, ROUNDS, COUNT = (784, 1000, 500, 250, 30), 5, 20_000


def data():
    """Smooth random pictures in [0, 1], 28 x 28."""
    noise = torch.randn(COUNT, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    return (
        torch.sigmoid(2 * nn.functional.interpolate(noise, size=28, mode="bicubic"))
        .flatten(1)
        .numpy()
    )


class Plain:
    """A plain PyTorch training loop in float32, as in a tutorial."""

    def __init__(self, x, batch):
        torch.manual_seed(0)
        layers = []
        for a, b in zip((*WIDTHS, *WIDTHS[-2::-1]), (*WIDTHS[1:], *WIDTHS[-2::-1]), strict=False):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.net = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.x, self.batch = torch.from_numpy(x), batch

    def epoch(self):
        """One pass over the rows."""
        for rows in torch.randperm(COUNT).split(self.batch):
            loss = (self.net(self.x[rows]) - self.x[rows]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def error(self):
        """Squared error of a row."""
        with torch.no_grad():
            return float((self.net(self.x) - self.x).square().sum(1).mean())


class ScikitLearn:
    """scikit-learn's MLPRegressor, with its input as the target."""

    def __init__(self, x, batch):
        self.x = x
        self.net = MLPRegressor(
            hidden_layer_sizes=(*WIDTHS[1:], *WIDTHS[-2:0:-1]),
            batch_size=batch,
            max_iter=1,
            warm_start=True,
            random_state=0,
        )

    def epoch(self):
        """One pass over the rows."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.net.fit(self.x, self.x)

    def error(self):
        """Squared error of a row."""
        return float(np.square(self.net.predict(self.x) - self.x).sum(1).mean())


class Ours:
    """sfumato's estimator, trained one epoch at a time."""

    def __init__(self, x, batch):
        self.x = x
        self.model = Autoencoder(WIDTHS[-1], layers=WIDTHS[1:-1], batch_size=batch, random_state=0)

    def epoch(self):
        """One pass over the rows."""
        self.model.partial_fit(self.x)

    def error(self):
        """Squared error of a row."""
        return -self.model.score(self.x)


def products(dtype, batch):
    """Return the rows per second of a training step's 24 matrix products.

    Each of the eight layers has three products: the forward pass and two gradients.
    """
    pairs = zip((*WIDTHS, *WIDTHS[-2::-1]), (*WIDTHS[1:], *WIDTHS[-2::-1]), strict=False)
    layers = [
        [torch.randn(shape).to(dtype) for shape in ((b, a), (batch, a), (batch, b))]
        for a, b in pairs
    ]
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        for weight, x, gradient in layers:
            x @ weight.t(), gradient @ weight, gradient.t() @ x
        seconds.append(time.perf_counter() - started)
    return batch / statistics.median(seconds)


def main():
    """Print the rates, the errors, and the ratio of the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    x, batch = data(), parser.parse_args().batch
    found = {
        "plain PyTorch float32": Plain(x, batch),
        "scikit-learn MLPRegressor": ScikitLearn(x, batch),
        "sfumato": Ours(x, batch),
    }
    keep_memory()
    seconds = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, program in found.items():
            time.sleep(1)  # threads of the previous program may still be busy-waiting
            started = time.perf_counter()
            program.epoch()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: COUNT / statistics.median(s) for name, s in seconds.items()}
    best = max(rate for name, rate in rates.items() if name != "sfumato")
    for name, rate in rates.items():
        print(
            f"{name:26s} {rate:9,.0f} rows/s   squared error per row after {ROUNDS} epochs "
            f"{found[name].error():.3f}"
        )
    print(f"sfumato is {rates['sfumato'] / best:.2f}x as fast as the faster of the other two")
    exact, half = products(torch.float32, batch), products(torch.bfloat16, batch)
    print(
        f"matrix products only: float32 {exact:,.0f} rows/s, bfloat16 {half:,.0f} rows/s, ratio "
        f"{half / exact:.2f}x"
    )


if __name__ == "__main__":
    main()
