"""What stands in and beside the picture of a slide: its tiles' source, the scale bar, the small overview."""

from collections.abc import Callable
from typing import Any

from bokeh.models import (
    ColumnDataSource,
    ImageURL,
    Range1d,
    RangeTool,
    ScaleBar,
    WMTSTileSource,
)
from bokeh.models.annotations.dimensional import ImperialLength
from bokeh.plotting import figure

from melano_tf.view.deepzoom import FINER, TILE_PX, Pyramid

OVERVIEW, OVERVIEW_TALL, LEAST = 300, 240, 60


def tile_source(address: str, size: tuple[int, int]) -> WMTSTileSource:
    """A slide's tiles, so that plot coordinates are level-0 px with y downwards negative.

    Args:
        address: of the tiles, with {Z}, {X} and {Y}.
        size: (w, h) of the slide, level-0 px.
    """
    pyramid = Pyramid(size)
    return WMTSTileSource(
        url=address,
        initial_resolution=2.0**pyramid.levels,
        x_origin_offset=0,
        y_origin_offset=pyramid.world,
        min_zoom=0,
        max_zoom=pyramid.levels + FINER,
        tile_size=TILE_PX,
        wrap_around=False,
        attribution="",
    )


def scale_bar(x_range: Range1d, mpp: float) -> ScaleBar:
    """A scale bar in µm or mm; mpp: µm per level-0 px."""
    units = {"px": (1.0, "px", "pixel"), "µm": (1 / mpp, "µm", "micrometre"), "mm": (1000 / mpp, "mm", "millimetre")}
    return ScaleBar(
        range=x_range,
        unit="px",
        dimensional=ImperialLength(basis=units, ticks=[1, 2, 5, 10, 20, 50, 100, 200, 500]),
        orientation="horizontal",
        location="bottom_right",
        length_sizing="adaptive",
        bar_length=0.18,
        bar_line_color="black",
        bar_line_width=3,
        label_text_color="black",
        background_fill_color="white",
        background_fill_alpha=0.75,
    )


def overview_figure(
    address: str, size: tuple[int, int], x_range: Any, y_range: Any
) -> tuple[figure, Callable[[], None]]:
    """The whole slide, small, with the window in it, which can be dragged; and what lets the browser fetch its picture.

    Args:
        address: of the picture.
        size: (w, h) of the slide, level-0 px.
        x_range, y_range: the window.
    """
    width, height = size
    ratio = height / width
    wide = OVERVIEW if ratio <= OVERVIEW_TALL / OVERVIEW else max(LEAST, round(OVERVIEW_TALL / ratio))
    fig = figure(
        x_range=Range1d(0, width),
        y_range=Range1d(-height, 0),
        width=wide,
        height=max(LEAST, round(wide * ratio)),
        tools="",
        toolbar_location=None,
        min_border=0,
        html_attributes={"aria-label": "overview of the slide with the window in it", "role": "img"},
    )
    fig.axis.visible = False
    fig.grid.visible = False
    tool = RangeTool(x_range=x_range, y_range=y_range, start_gesture="none")
    tool.overlay.fill_color, tool.overlay.fill_alpha = "#d55e00", 0.12
    tool.overlay.line_color, tool.overlay.line_width = "#d55e00", 2
    fig.add_tools(tool)
    source = ColumnDataSource({"once": []})
    picture = ImageURL(url={"value": address}, x=0, y=0, w=float(size[0]), h=float(size[1]), anchor="top_left")
    fig.add_glyph(source, picture)
    return fig, lambda: source.update(data={"once": [0]})
