"""The figures of a comparison: curves, maps and reconstructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.tasks.reduce.compare import RANKS, Comparison
from sfumato.tasks.reduce.results import Trial

COLORS = (
    "#3465a4",
    "#cc6633",
    "#4e9a06",
    "#75507b",
    "#c4a000",
    "#a40000",
    "#06989a",
    "#888a85",
    "#ad7fa8",
    "#8f5902",
)
MARKED, NAMED = 3000, 24  # points on a map; labels that a legend has room for


def methods_of(found: Comparison) -> list[str]:
    """The methods that were compared, in order."""
    return list(dict.fromkeys(t.method for t in found.trials))


def curves(found: Comparison, what: str, title: str) -> Any:
    """Plot error or accuracy of each method against the code length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4))
    axes = figure.add_subplot()
    highest = 0.0
    for color, method in zip(COLORS, methods_of(found), strict=False):
        mine = [t for t in found.trials if t.method == method]
        values = [t.error if what == "error" else t.accuracy[1] for t in mine]
        highest = max(highest, *values)
        axes.plot([t.codes for t in mine], values, "o-", color=color, label=method)
    axes.set_xscale("log")
    lengths = sorted({t.codes for t in found.trials})
    axes.set_xticks(lengths, [str(k) for k in lengths])
    axes.minorticks_off()
    axes.set(xlabel="code length", ylabel=title)
    axes.set_ylim(0, 1.05 * highest or 1)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def precision_curves(found: Comparison) -> Any:
    """Plot the share of neighbors with the query's label.

    Hinton & Salakhutdinov 2006, figure 4A.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4))
    axes = figure.add_subplot()
    for color, method in zip(COLORS, methods_of(found), strict=False):
        for style, t in zip(
            ("-", "--", ":", "-."),
            [t for t in found.trials if t.method == method][::-1],
            strict=False,
        ):
            axes.plot(
                list(t.precision),
                list(t.precision.values()),
                style,
                color=color,
                label=f"{method}-{t.codes}",
            )
    axes.set_xscale("log")
    axes.set_xticks(RANKS, [str(k) for k in RANKS])
    axes.minorticks_off()
    axes.set(xlabel="number of neighbors", ylabel="share with the query's label")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def mapped(found: Comparison) -> list[Trial]:
    """The trials with codes of length 2, from which maps are drawn."""
    return [t for t in found.trials if t.codes == 2]


def marked(found: Comparison) -> NDArray[np.int64]:
    """The test rows that a map shows: all, or a random sample of `MARKED`."""
    count = len(found.places)
    return (
        np.arange(count)
        if count <= MARKED
        else np.sort(np.random.default_rng(0).permutation(count)[:MARKED])
    )


def palette_of(found: Comparison) -> dict[str, str]:
    """A color for each label: ten distinct colors, or a rainbow for more than ten labels."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = [] if found.test_labels is None else sorted(set(found.test_labels.tolist()))
    many = [
        to_hex(colormaps["turbo"](0.05 + 0.9 * k / max(1, len(names) - 1)))
        for k in range(len(names))
    ]
    return dict(zip(names, many if len(names) > len(COLORS) else COLORS, strict=False))


def static_maps(found: Comparison) -> Any:
    """Draw the maps side by side in one figure."""
    from matplotlib.figure import Figure

    trials, chosen, palette = mapped(found), marked(found), palette_of(found)
    figure = Figure(figsize=(5 * len(trials), 4.6))
    for k, trial in enumerate(trials):
        axes = figure.add_subplot(1, len(trials), k + 1)
        x, y = trial.test_codes.T
        if found.test_labels is None:
            axes.scatter(x[chosen], y[chosen], s=4, color=COLORS[0])
        for name, color in palette.items():
            mine = chosen[found.test_labels[chosen] == name]  # type: ignore[index]
            axes.scatter(x[mine], y[mine], s=4, color=color, label=name)
        axes.set(title=f"{trial.method}, codes of length 2", xticks=[], yticks=[])
    if 0 < len(palette) <= NAMED:
        figure.axes[-1].legend(
            markerscale=3, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return figure


def reconstructions(found: Comparison) -> Image.Image:
    """Originals in the first row, then each method at each code length, shortest codes first."""
    assert found.table.shape is not None
    rows = [
        found.test[: len(found.trials[0].reconstructed)],
        *(t.reconstructed for t in sorted(found.trials, key=lambda t: t.codes)),
    ]
    x = (
        torch.from_numpy(np.concatenate(rows).astype(np.float32)).unflatten(1, found.table.shape)
        * 2
        - 1
    )
    small = image.to_pictures(x)
    factor = max(1, 48 // small[0].height)
    larger = [
        p.convert("RGB").resize((p.width * factor, p.height * factor), Image.Resampling.NEAREST)
        for p in small
    ]
    return image.sheet(larger, columns=len(rows[0]))
