"""How exact each sampler is on a Gaussian, where the answer is known: errors at N steps and the
measured order.

    python benchmarks/sampler_order.py            # prints docs/samplers.md

For data N(0, s^2) the perfect denoiser is ``D(x; sigma) = x s^2 / (s^2 + sigma^2)``, linear in x. A
sampler is then linear in its start and in every noise it draws, so the deviation of what comes out
is exact, without chance: the root of the sum of squared gains, each found by one run. The
probability-flow ODE has the gain ``sqrt(s^2 + end^2) / sqrt(s^2 + start^2)``; the end is at
sigma_min, where methods of high order show their order.
"""

import math
import textwrap

import torch

from sfumato.sampler.registry import SAMPLERS

DATA, START, END = 1.0, 14.6, 0.03
STEPS = (10, 20, 50, 100)


def denoise(x, sigma):
    """The perfect denoiser of a Gaussian."""
    s = sigma[:, None, None, None]
    return x * DATA**2 / (DATA**2 + s**2)


def levels(steps):
    """Noise levels even in log sigma, as the theory of these samplers assumes."""
    return torch.linspace(math.log(START), math.log(END), steps + 1, dtype=torch.float64).exp()


def deviation(name, steps):
    """Standard deviation of what the sampler gives for a start of variance s^2 + START^2: exact."""
    entry, sigmas = SAMPLERS[name], levels(steps)
    draws = 2 * steps if entry.stochastic else 0
    x = torch.zeros(draws + 1, 1, 1, 1, dtype=torch.float64)
    x[0] = math.sqrt(DATA**2 + START**2)
    count = iter(range(1, draws + 1))

    def unit(like):
        out = torch.zeros_like(like)
        out[next(count)] = 1.0  # picture k feels noise k alone
        return out

    extra = {"noise": unit} if entry.stochastic else {}
    return float(list(entry.run(denoise, x, sigmas, **extra))[-1].x.square().sum().sqrt())


def error(name, steps):
    """Relative error of the deviation."""
    return abs(deviation(name, steps) / math.sqrt(DATA**2 + END**2) - 1)


ABOUT = """\
Which sampler is the best? Here the data follow a Gaussian, for which the perfect denoiser is
known, so only the sampler makes an error. Each sampler goes from noise level (sigma) 14.6 to 0.03,
in equal steps of log sigma. The table gives the relative error of the standard deviation of the
samples, for several numbers of steps. For samplers that add random noise, the error is computed
exactly, too, not estimated from samples. Compare samplers at an equal number of network
evaluations. Here `unipc` is the most exact. The second is `dpmpp_2m` at 10 and 20 steps, and `lms`
at 50 and 100 steps. Order 2 means that doubling the number of steps reduces the error to a quarter.
The order is measured between 200 and 400 steps. For `lms`, it is measured between 1,000 and 2,000
steps: its first steps are of lower order, and their error hides the order of shorter runs. `lcm`
needs a network that was distilled for it. `python benchmarks/sampler_order.py` prints this page.
"""


def order(name):
    """Slope of the error between 200 steps and twice as many; for LMS 1,000, as its first steps are
    of lower order.
    """
    steps = 1000 if name == "lms" else 200
    return math.log2(error(name, steps) / error(name, 2 * steps))


def table():
    """The table of docs/samplers.md."""
    lines = [
        "# How exact the samplers are",
        "",
        textwrap.fill(" ".join(ABOUT.split()), 120, break_on_hyphens=False),
        "",
        "| sampler | network evaluations per step | "
        + " | ".join(f"error at {n} steps" for n in STEPS)
        + " | measured order | theory |",
        "|---|---|" + "---|" * (len(STEPS) + 2),
    ]
    for name, entry in SAMPLERS.items():
        shown = [f"{error(name, n):.1e}" for n in STEPS]
        measured = f"{order(name):.2f}" if entry.order else "-"
        lines.append(
            f"| {name} | {entry.evaluations} | "
            + " | ".join(shown)
            + f" | {measured} | {entry.order or '-'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
