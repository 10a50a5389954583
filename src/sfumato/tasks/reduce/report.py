"""The report of a comparison: one HTML file that needs no network, the figures as PNG and SVG, and
the numbers as JSON.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato import image
from sfumato.errors import OptionError
from sfumato.runtime import atomic
from sfumato.tasks.reduce.compare import RANKS, Comparison, Trial

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
STYLE = """
body {
  font: 15px/1.5 system-ui, sans-serif;
  margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222
}
h1, h2 { font-weight: 600 } h2 { margin-top: 2.2rem } img { max-width: 100% }
figure { margin: 1rem 0 } .maps img { width: 33rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } .best { font-weight: 700 }
.maps { display: flex; flex-wrap: wrap; gap: 1rem }
.note { color: #666 } li { margin: .2rem 0 } .wide { overflow-x: auto }
"""


def ready() -> None:
    """Choose what figures are drawn with.

    Raises
    ------
    OptionError
        If the plotting libraries are not installed.
    """
    try:
        import bokeh  # noqa: F401
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["text.parse_math"] = False  # a label may hold dollars
    except ImportError:
        raise OptionError(
            'a report needs matplotlib and bokeh: pip install "sfumato[reduce]"'
        ) from None


def write(found: Comparison, folder: Path, source: str) -> Path:
    """Write ``report.html``, ``report.json`` and the figures; returns the path of the page.

    Raises
    ------
    OptionError
        If the plotting libraries are not installed.
    """
    ready()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "report.json") as scratch:
        scratch.write_text(json.dumps(record(found, source), indent=2), "utf-8")
    figures = {"error": _curves(found, "error", "squared error of a test row")}
    if any(t.accuracy for t in found.trials):
        figures["accuracy"] = _curves(found, "accuracy", "accuracy of the nearest neighbour")
    if any(t.precision for t in found.trials):
        figures["precision"] = _precision(found)
    figures["map"] = _static_maps(found)
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            with atomic(folder / f"{name}.{suffix}") as scratch:
                figure.savefig(scratch, dpi=140, bbox_inches="tight")
    if found.table.shape is not None:
        with atomic(folder / "reconstructions.png") as scratch:
            reconstructions(found).save(scratch, format="PNG")
    with atomic(folder / "report.html") as scratch:
        scratch.write_text(_page(found, folder, source, list(figures)), "utf-8")
    return folder / "report.html"


def record(found: Comparison, source: str) -> dict[str, Any]:
    """All figures as plain data."""
    size = _bytes_per_item(found)
    trials = []
    for t in found.trials:
        kept = {
            "method": t.method,
            "codes": t.codes,
            "error": t.error,
            "seconds": round(t.seconds, 3),
            "parameters": t.parameters,
        }
        extra = {
            "knn_accuracy": t.accuracy,
            "precision_at": t.precision,
            "mean_average_precision": t.average_precision,
        }
        trials.append(
            kept
            | {"bytes_per_item": 4 * t.codes, "compression": round(size / (4 * t.codes), 2)}
            | {k: v for k, v in extra.items() if v}
        )
    return {
        "data": source,
        "kind": found.table.kind,
        "train_rows": int(found.train.shape[0]),
        "test_rows": int(found.test.shape[0]),
        "values_per_row": int(found.train.shape[1]),
        "options": found.options.model_dump(mode="json"),
        "trials": trials,
        "outliers": [o.__dict__ for o in found.outliers],
        "verdict": found.verdict(),
        "skipped": found.table.skipped,
    }


def _bytes_per_item(found: Comparison) -> float:
    """Of the data as it comes: a byte per value of a picture, four per number, the text of a
    document.
    """
    if found.table.kind == "documents":
        return float(np.mean([len(t.encode()) for t in found.table.texts]))
    return float(found.train.shape[1]) * (1 if found.table.kind == "pictures" else 4)


def _methods(found: Comparison) -> list[str]:
    return list(dict.fromkeys(t.method for t in found.trials))


def _curves(found: Comparison, what: str, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4))
    axes = figure.add_subplot()
    for color, method in zip(COLORS, _methods(found), strict=False):
        mine = [t for t in found.trials if t.method == method]
        axes.plot(
            [t.codes for t in mine],
            [t.error if what == "error" else t.accuracy[1] for t in mine],
            "o-",
            color=color,
            label=method,
        )
    axes.set_xscale("log")
    lengths = sorted({t.codes for t in found.trials})
    axes.set_xticks(lengths, [str(k) for k in lengths])
    axes.minorticks_off()
    axes.set(xlabel="codes per item", ylabel=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _precision(found: Comparison) -> Any:
    """Figure 4A of Hinton & Salakhutdinov 2006: the share of neighbours with the query's label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4))
    axes = figure.add_subplot()
    for color, method in zip(COLORS, _methods(found), strict=False):
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
    axes.set(xlabel="neighbours looked at", ylabel="share with the query's label")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _maps(found: Comparison) -> list[Trial]:
    return [t for t in found.trials if t.codes == 2]


def _marked(found: Comparison) -> NDArray[np.int64]:
    count = len(found.places)
    return (
        np.arange(count)
        if count <= MARKED
        else np.sort(np.random.default_rng(0).permutation(count)[:MARKED])
    )


def _palette(found: Comparison) -> dict[str, str]:
    """A color for each label: ten that are told apart well, or as many as there are along the
    rainbow.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = [] if found.test_labels is None else sorted(set(found.test_labels.tolist()))
    many = [
        to_hex(colormaps["turbo"](0.05 + 0.9 * k / max(1, len(names) - 1)))
        for k in range(len(names))
    ]
    return dict(zip(names, many if len(names) > len(COLORS) else COLORS, strict=False))


def _static_maps(found: Comparison) -> Any:
    from matplotlib.figure import Figure

    trials, chosen, palette = _maps(found), _marked(found), _palette(found)
    figure = Figure(figsize=(5 * len(trials), 4.6))
    for k, trial in enumerate(trials):
        axes = figure.add_subplot(1, len(trials), k + 1)
        if found.test_labels is None:
            axes.scatter(trial.test[chosen, 0], trial.test[chosen, 1], s=4, color=COLORS[0])
        for name, color in palette.items():
            mine = chosen[found.test_labels[chosen] == name]  # type: ignore[index]
            axes.scatter(trial.test[mine, 0], trial.test[mine, 1], s=4, color=color, label=name)
        axes.set(title=f"{trial.method}, 2 codes", xticks=[], yticks=[])
    if 0 < len(palette) <= NAMED:
        figure.axes[-1].legend(
            markerscale=3, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return figure


def reconstructions(found: Comparison) -> Image.Image:
    """Originals in the first row, then each method at each length, fewest codes first."""
    assert found.table.shape is not None
    rows = [
        found.test[: len(found.trials[0].again)],
        *(t.again for t in sorted(found.trials, key=lambda t: t.codes)),
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


def _page(found: Comparison, folder: Path, source: str, figures: list[str]) -> str:
    from bokeh.embed import components
    from bokeh.resources import INLINE

    script, plots = components([_live_map(found, t) for t in _maps(found)])
    parts = [
        f"<h1>{html.escape(Path(source).name)} in a few numbers</h1>",
        f'<p class="note">{found.train.shape[0]} rows to train on, {found.test.shape[0]} to test '
        f"on, {found.train.shape[1]} values each.</p>",
        "<h2>Verdict</h2><ul>"
        + "".join(f"<li>{html.escape(line)}</li>" for line in found.verdict())
        + "</ul>",
        "<h2>Figures</h2>" + _table(found),
        '<div class="maps">'
        + "".join(_picture(folder / f"{name}.png", name) for name in figures if name != "map")
        + "</div>",
        "<h2>Maps of the test rows</h2><p class='note'>Point at a mark to see the item; drag and "
        "scroll to move; click the legend to hide.</p>",
        f'<div class="maps">{"".join(plots)}</div>',
    ]
    if found.table.shape is not None:
        order = ", ".join(
            f"{t.method} {t.codes}" for t in sorted(found.trials, key=lambda t: t.codes)
        )
        picture = _picture(folder / "reconstructions.png", "reconstructions")
        parts.append(
            f"<h2>Reconstructions</h2><p class='note'>Originals, then {html.escape(order)} "
            f"codes.</p>{picture}"
        )
    if found.table.skipped:
        items = "".join(f"<li>{html.escape(s)}</li>" for s in found.table.skipped[:50])
        parts.append(f"<h2>Left out</h2><p>{len(found.table.skipped)} items.</p><ul>{items}</ul>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Reduce</title><style>{STYLE}</style>'
    )
    return (
        "<!doctype html><html "
        f"lang='en'><head>{head}{INLINE.render()}</head><body>{''.join(parts)}{script}</body></html>"
    )


def _table(found: Comparison) -> str:
    size, neighbours = _bytes_per_item(found), found.options.neighbours
    columns = [
        "method",
        "codes",
        "error",
        "seconds to fit",
        "parameters",
        "bytes per item",
        "compression",
    ]
    labelled = any(t.accuracy for t in found.trials)
    if labelled:
        columns += ["1-NN accuracy", f"{neighbours}-NN accuracy"]
    ranked = any(t.average_precision is not None for t in found.trials)
    if ranked:
        columns.append("mean average precision")
    best = {
        k: min((t for t in found.trials if t.codes == k), key=lambda t: t.error)
        for k in {t.codes for t in found.trials}
    }
    lines = []
    for t in found.trials:
        cells = [
            t.method,
            t.codes,
            f"{t.error:.4g}",
            f"{t.seconds:.2f}",
            f"{t.parameters:,}",
            4 * t.codes,
            f"{size / (4 * t.codes):.1f} : 1",
        ]
        if labelled:
            cells += [f"{t.accuracy[1]:.3f}", f"{t.accuracy[neighbours]:.3f}"]
        if ranked:
            cells.append("" if t.average_precision is None else f"{t.average_precision:.3f}")
        inner = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(
            f"<tr class='best'>{inner}</tr>" if best[t.codes] is t else f"<tr>{inner}</tr>"
        )
    head = "".join(f"<th>{c}</th>" for c in columns)
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _picture(path: Path, name: str) -> str:
    return (
        f'<figure><img alt="{name}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></figure>'
    )


def _live_map(found: Comparison, trial: Trial) -> Any:
    from bokeh.models import HoverTool
    from bokeh.plotting import ColumnDataSource, figure

    chosen, palette = _marked(found), _palette(found)
    labels = np.full(len(found.places), "") if found.test_labels is None else found.test_labels
    items = _thumbnails(found, chosen)
    plot = figure(
        title=f"{trial.method}, 2 codes",
        width=520,
        height=460,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
    )
    for name in palette or {"": COLORS[0]}:
        mine = np.flatnonzero(labels[chosen] == name)
        x, y = trial.test[chosen[mine]].T
        data = ColumnDataSource(
            {
                "x": x,
                "y": y,
                "item": [items[k] for k in mine],
                "label": [html.escape(str(name))] * len(mine),
            }
        )
        legend: dict[str, Any] = (
            {"legend_label": str(name)} if name and len(palette) <= NAMED else {}
        )
        plot.scatter(
            "x", "y", source=data, size=5, alpha=0.7, color=palette.get(name, COLORS[0]), **legend
        )
    plot.add_tools(
        HoverTool(tooltips="<div style='max-width:20rem'>@item{safe}<div>@label{safe}</div></div>")
    )
    if plot.legend:
        plot.add_layout(plot.legend[0], "right")
        plot.legend.click_policy = "hide"
        plot.legend.label_text_font_size, plot.legend.spacing = "8pt", 0
        plot.legend.label_height = plot.legend.glyph_height = 15
    return plot


def _thumbnails(found: Comparison, chosen: NDArray[np.int64]) -> list[str]:
    """What a mark shows when it is pointed at: a picture, the beginning of a text, or the first
    numbers.
    """
    table, places = found.table, found.places[chosen]
    if table.kind == "documents":
        return [html.escape(" ".join(table.texts[k].split())[:160]) for k in places]
    if table.shape is None:
        return [html.escape(", ".join(f"{v:.3g}" for v in table.rows[k][:8])) for k in places]
    x = torch.from_numpy(table.rows[places]).unflatten(1, table.shape) * 2 - 1
    out = []
    for picture in image.to_pictures(x):
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        out.append(
            "<img width='64' style='image-rendering:pixelated' "
            f"src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
        )
    return out
