"""An interactive map of codes of length 2.

It shows the item of the point under the pointer, the items inside a lasso, and the picture decoded
from the pointer's position.

The scripts for the browser are in ``static/``.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato import image
from sfumato.tasks.reduce.compare import GRID_SIDE, Comparison
from sfumato.tasks.reduce.figures import COLORS, NAMED, marked, palette_of
from sfumato.tasks.reduce.results import Trial

LISTED = 36  # largest number of items of a lasso that are listed
SIDE = 64  # width in pixels of the pictures shown
STATIC = Path(__file__).parent / "static"
HINT = "Choose the lasso and draw around some marks; their items are listed here."


def live_map(found: Comparison, trial: Trial) -> Any:
    """The map of a trial with codes of length 2.

    Below it appear the picture decoded at the pointer and the items selected with the lasso.
    """
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS
    from bokeh.models.widgets import Div

    plot, sources = _plot(found, trial)
    listed, decoded = Div(text=HINT), Div(text="", width=110)
    args = {"sources": sources, "place": listed, "most": LISTED, "hint": HINT}
    listing = CustomJS(args=args, code=_program("lasso"))
    for source in sources:
        source.selected.js_on_change("indices", listing)
    if trial.decoded_map is not None and found.table.shape is not None:
        low, high = (f(trial.test_codes, axis=0).tolist() for f in (np.min, np.max))
        _, height, width = found.table.shape
        tall = round(SIDE * height / width)
        address = _sheet(trial.decoded_map, found.table.shape)
        sheet = {"sheet": address, "count": GRID_SIDE, "side": SIDE, "tall": tall}
        args = {"place": decoded, "low": low, "high": high, **sheet}
        plot.js_on_event("mousemove", CustomJS(args=args, code=_program("decode")))
    return column(plot, row(decoded, listed))


def _plot(found: Comparison, trial: Trial) -> tuple[Any, list[Any]]:
    """Plot the marks in the colors of their labels; return the plot and its data sources."""
    from bokeh.models import HoverTool
    from bokeh.plotting import ColumnDataSource, figure

    chosen, palette = marked(found), palette_of(found)
    labels = np.full(len(found.places), "") if found.test_labels is None else found.test_labels
    items, sources = _items(found, chosen), []
    plot = figure(
        title=f"{trial.method}, codes of length 2",
        width=520,
        height=460,
        tools="pan,wheel_zoom,box_zoom,lasso_select,reset,save",
        active_scroll="wheel_zoom",
    )
    for name in palette or {"": COLORS[0]}:
        mine = np.flatnonzero(labels[chosen] == name)
        x, y = trial.test_codes[chosen[mine]].T
        said = [html.escape(str(name))] * len(mine)
        shown = [items[k] for k in mine]
        source = ColumnDataSource({"x": x, "y": y, "item": shown, "label": said})
        sources.append(source)
        named = name and len(palette) <= NAMED
        legend: dict[str, Any] = {"legend_label": str(name)} if named else {}
        color = palette.get(name, COLORS[0])
        plot.scatter("x", "y", source=source, size=5, alpha=0.7, color=color, **legend)
    plot.add_tools(
        HoverTool(tooltips="<div style='max-width:20rem'>@item{safe}<div>@label{safe}</div></div>")
    )
    if plot.legend:
        plot.add_layout(plot.legend[0], "right")
        plot.legend.click_policy = "hide"
        plot.legend.label_text_font_size, plot.legend.spacing = "8pt", 0
        plot.legend.label_height = plot.legend.glyph_height = 15
    return plot, sources


def _sheet(decoded_map: NDArray[Any], shape: tuple[int, int, int]) -> str:
    """The data URL of one sheet with all decoded pictures of the map, top row first."""
    upwards = decoded_map.reshape(GRID_SIDE, GRID_SIDE, -1)[::-1].reshape(decoded_map.shape)
    x = torch.from_numpy(upwards.astype(np.float32)).unflatten(1, shape) * 2 - 1
    return _address(image.sheet(image.to_pictures(x), columns=GRID_SIDE, gap=0))


def _program(name: str) -> str:
    return (STATIC / f"{name}.js").read_text("utf-8")


def _address(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _items(found: Comparison, chosen: NDArray[np.int64]) -> list[str]:
    """The items of marks as HTML: a picture, the beginning of a text, or the first numbers."""
    table, places = found.table, found.places[chosen]
    if table.kind == "documents":
        return [html.escape(" ".join(table.texts[k].split())[:160]) for k in places]
    if table.shape is None:
        return [html.escape(", ".join(f"{v:.3g}" for v in table.rows[k][:8])) for k in places]
    x = torch.from_numpy(table.rows[places]).unflatten(1, table.shape) * 2 - 1
    return [
        f"<img width='{SIDE}' style='image-rendering:pixelated' src='{_address(picture)}'>"
        for picture in image.to_pictures(x)
    ]
