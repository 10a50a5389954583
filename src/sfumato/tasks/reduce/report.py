"""The report of a comparison: one HTML file that needs no network, the figures as PNG and SVG, and
the numbers as JSON.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import OptionError
from sfumato.runtime import atomic
from sfumato.tasks.reduce.compare import Comparison
from sfumato.tasks.reduce.figures import (
    curves,
    mapped,
    precision_curves,
    reconstructions,
    static_maps,
)
from sfumato.tasks.reduce.livemap import live_map

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
    figures = {"error": curves(found, "error", "squared error of a test row")}
    if any(t.accuracy for t in found.trials):
        figures["accuracy"] = curves(found, "accuracy", "accuracy of the nearest neighbour")
    if any(t.precision for t in found.trials):
        figures["precision"] = precision_curves(found)
    figures["map"] = static_maps(found)
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


def _page(found: Comparison, folder: Path, source: str, figures: list[str]) -> str:
    from bokeh.embed import components
    from bokeh.resources import INLINE

    script, plots = components([live_map(found, t) for t in mapped(found)])
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
        "<h2>Maps of the test rows</h2><p class='note'>Point at a mark to see the item, and "
        "between marks to see what is decoded from there; drag and scroll to move; click the "
        "legend to hide.</p>",
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
