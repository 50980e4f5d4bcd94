"""How pages look: their frame, light and dark, colours, and the few lines of JavaScript that all of them share."""

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bokeh.core.templates import get_env
from bokeh.model import Model
from bokeh.models import CustomJS, DataTable, Div, Plot, TableWidget
from bokeh.resources import Resources
from bokeh.server.views.static_handler import StaticHandler
from bokeh.themes import Theme


def asset(name: str) -> str:
    """A file that stands beside this module: a style sheet, the pages' frame, their script."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


CSS, WIDGETS, TABLES, SCRIPT = map(asset, ("page.css", "widgets.css", "tables.css", "page.js"))
FRAME = get_env().from_string("{% extends base %}" + asset("frame.html"))


def theme(dark: bool) -> Theme:
    """Widgets that follow the page's colours, and plots of the same shade."""
    soft, line, text, panel = (
        ("#a6abb0", "#3c4145", "#e8e8e6", "#212427") if dark else ("#5c6166", "#d6d8da", "#1d1f21", "#fff")
    )
    axis = {
        "axis_line_color": line,
        "major_tick_line_color": line,
        "minor_tick_line_color": None,
        "axis_label_text_color": text,
        "major_label_text_color": soft,
        "axis_label_text_font_style": "normal",
    }
    attributes: dict[str, dict[str, Any]] = {
        "Widget": {"stylesheets": [WIDGETS]},
        "Markup": {"disable_math": True},
        "TableWidget": {"stylesheets": [WIDGETS, TABLES]},
        "Plot": {
            "background_fill_color": panel,
            "border_fill_color": None,
            "outline_line_color": line,
        },
        "AbstractSlider": {"bar_color": "#6b7278" if dark else "#e6e6e6"},
        "Axis": axis,
        "Grid": {"grid_line_color": line},
        "Legend": {"background_fill_color": panel, "label_text_color": text, "border_line_color": line},
        "BaseColorBar": {
            "background_fill_color": None,
            "major_label_text_color": soft,
            "title_text_color": text,
            "title_text_font_style": "normal",
        },
        "Title": {"text_color": text},
    }
    return Theme(json={"attrs": attributes})


def scripts(prefix: str, roots: Iterable[Model]) -> list[str]:
    """Addresses of the parts of Bokeh's JavaScript that a page needs; each takes the browser time to read."""
    parts = {"bokeh": True, "bokeh-widgets": True, "bokeh-gl": False, "bokeh-tables": False}
    for model in (one for root in roots for one in root.references()):
        parts["bokeh-gl"] |= isinstance(model, Plot) and model.output_backend == "webgl"
        parts["bokeh-tables"] |= isinstance(model, TableWidget)
    needed = [name for name, wanted in parts.items() if wanted]
    versioned = StaticHandler.append_version
    return Resources("server", root_url=f"{prefix}/", path_versioner=versioned, components=needed).js_files


def text(words: Any) -> str:
    """Words of data, safe inside HTML."""
    return html.escape(str(words), quote=True)


def redrawn(table: DataTable) -> DataTable:
    """The same table, drawn anew whenever its data are others: Bokeh alone sees a change in the number of rows."""
    table.source.js_on_change("data", CustomJS(args={"view": table.view}, code="view.change.emit()"))
    return table


def keys_shown(keys: Mapping[str, str]) -> Div:
    """A line that says which key does what."""
    parts = " · ".join(f"<kbd>{text(key)}</kbd> {text(words)}" for key, words in keys.items())
    return Div(text=f'<p class="soft">{parts}</p>', sizing_mode="stretch_width")


def note(words: str, kind: str = "soft") -> Div:
    """A line of words on a page; data in it must have gone through `text`."""
    return Div(text=f'<p class="{kind}" role="status">{words}</p>', sizing_mode="stretch_width")
