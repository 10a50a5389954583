"""Write a comparison's report.

It consists of one HTML file that opens offline, the figures as PNG and SVG, and the numbers as
JSON.
"""

from __future__ import annotations

import base64
import json
import warnings
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

STATIC = Path(__file__).parent / "static"


def check_plotting() -> None:
    """Raise an error if the plotting libraries are not installed.

    Raises
    ------
    OptionError
    """
    try:
        import bokeh  # noqa: F401
        import matplotlib  # noqa: F401, ICN001
    except ImportError:
        raise OptionError(
            'a report needs matplotlib and bokeh: pip install "sfumato[reduce]"'
        ) from None


FIGURES = ("error", "accuracy", "precision", "map")
FILES = (
    "report.html",
    "report.json",
    "reconstructions.png",
    *(f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")),
)


def write(found: Comparison, folder: Path, source: str) -> Path:
    """Write ``report.html``, ``report.json`` and the figures; returns the path of the page.

    Raises
    ------
    OptionError
        If the plotting libraries are not installed.
    """
    check_plotting()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "report.json") as scratch:
        scratch.write_text(json.dumps(record(found, source), indent=2), "utf-8")
    figures = _write_figures(found, folder)
    if found.table.shape is not None:
        with atomic(folder / "reconstructions.png") as scratch:
            reconstructions(found).save(scratch, format="PNG")
    with atomic(folder / "report.html") as scratch:
        scratch.write_text(_page(found, folder, source, figures), "utf-8")
    return folder / "report.html"


def _write_figures(found: Comparison, folder: Path) -> list[str]:
    """Write the figures as PNG and SVG, and return their names."""
    from matplotlib import rc_context

    # a label may contain dollar signs, or letters that the font lacks
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figures = _figures(found)
        for name, figure in figures.items():
            for suffix in ("png", "svg"):
                with atomic(folder / f"{name}.{suffix}") as scratch:
                    figure.savefig(scratch, dpi=140, bbox_inches="tight")
    return list(figures)


def _figures(found: Comparison) -> dict[str, Any]:
    """The figures by name, without those for which the comparison has no numbers."""
    figures = {"error": curves(found, "error", "squared error of a test row")}
    if any(t.accuracy for t in found.trials):
        figures["accuracy"] = curves(found, "accuracy", "accuracy of the nearest neighbor")
    if any(t.precision for t in found.trials):
        figures["precision"] = precision_curves(found)
    return figures | {"map": static_maps(found)}


def record(found: Comparison, source: str) -> dict[str, Any]:
    """All numbers of the report as plain data."""
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
    """Mean size of an original item in bytes.

    A picture has one byte per value, other rows have four bytes per value, and a document has the
    size of its text.
    """
    if found.table.kind == "documents":
        return float(np.mean([len(t.encode()) for t in found.table.texts]))
    return float(found.train.shape[1]) * (1 if found.table.kind == "pictures" else 4)


def _page(found: Comparison, folder: Path, source: str, figures: list[str]) -> str:
    """Render the page from its template."""
    from bokeh.embed import components
    from bokeh.resources import INLINE
    from jinja2 import Environment, FileSystemLoader

    script, maps = components([live_map(found, t) for t in mapped(found)])
    by_length = sorted(found.trials, key=lambda t: t.codes)
    rows = [f"Row {k}: {t.method}, codes of length {t.codes}." for k, t in enumerate(by_length, 2)]

    def encoded(name: str) -> str:
        return base64.b64encode((folder / f"{name}.png").read_bytes()).decode()

    pages = Environment(
        loader=FileSystemLoader(STATIC), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("report.html").render(
        found=found,
        name=Path(source).name,
        style=(STATIC / "report.css").read_text("utf-8"),
        columns=_columns(found),
        lines=_lines(found),
        figures=[name for name in figures if name != "map"],
        rows=" ".join(rows) if found.table.shape is not None else "",
        decoded=any(t.decoded_map is not None for t in found.trials),
        skipped=found.table.skipped,
        plots={"resources": INLINE.render(), "maps": "".join(maps), "script": script},
        encoded=encoded,
    )


def _columns(found: Comparison) -> list[str]:
    """The column headings of the table."""
    columns = ["method", "code length", "error", "seconds to fit", "parameters"]
    columns += ["bytes per item", "compression"]
    if any(t.accuracy for t in found.trials):
        columns += [f"{k}-NN accuracy" for k in _neighbors(found)]
    if any(t.average_precision is not None for t in found.trials):
        columns.append("mean average precision")
    return columns


def _neighbors(found: Comparison) -> list[int]:
    """The numbers of neighbors for which the accuracy was measured, ascending."""
    return sorted({k for t in found.trials for k in t.accuracy})


def _lines(found: Comparison) -> list[tuple[list[str], bool]]:
    """The cells of each table row, and whether its error is the lowest of its code length."""
    size, count = _bytes_per_item(found), len(_columns(found))
    lines = []
    for t in found.trials:
        cells = [t.method, f"{t.codes}", f"{t.error:.4g}", f"{t.seconds:.2f}", f"{t.parameters:,}"]
        cells += [f"{4 * t.codes}", f"{size / (4 * t.codes):.1f} : 1"]
        if t.accuracy:
            cells += [f"{t.accuracy[k]:.3f}" for k in _neighbors(found)]
        if t.average_precision is not None:
            cells.append(f"{t.average_precision:.3f}")
        cells += [""] * (count - len(cells))
        least = min(other.error for other in found.trials if other.codes == t.codes)
        lines.append((cells, t.error == least))
    return lines
