"""How pages look: their frame, light and dark, colours, and the few lines of JavaScript that all of them share."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh.models import Div
from bokeh.palettes import Cividis256, Inferno256, Viridis256
from bokeh.themes import Theme

PALETTES: Mapping[str, Sequence[str]] = {
    "viridis": Viridis256,
    "cividis (for colour-blind eyes)": Cividis256,
    "inferno": Inferno256,
}
"""Perceptually even colour maps."""
# Of classes and models; the colour-blind tell them apart (Wong, 2011).
RIGHT, WRONG = "#009e73", "#d55e00"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6fc8", "#999999")


def asset(name: str) -> str:
    """A file that stands beside this module: a style sheet, the pages' frame, their script."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


CSS, WIDGETS, TABLES, SCRIPT, FRAME = map(asset, ("page.css", "widgets.css", "tables.css", "page.js", "frame.html"))


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
        "TableWidget": {"stylesheets": [WIDGETS, TABLES]},
        "Plot": {
            "background_fill_color": panel,
            "border_fill_color": None,
            "outline_line_color": line,
        },
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


def text(words: Any) -> str:
    """Words of data, safe inside HTML."""
    return html.escape(str(words), quote=True)


def keys_shown(keys: Mapping[str, str]) -> Div:
    """A line that says which key does what."""
    parts = " · ".join(f"<kbd>{text(key)}</kbd> {text(words)}" for key, words in keys.items())
    return Div(text=f'<p class="soft">{parts}</p>', sizing_mode="stretch_width")


def note(words: str, kind: str = "soft") -> Div:
    """A line of words on a page; data in it must have gone through `text`."""
    return Div(text=f'<p class="{kind}" role="status">{words}</p>', sizing_mode="stretch_width")
