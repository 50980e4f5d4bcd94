"""The picture of a slide in a page: deep-zoom tiles, a map, outlines, mask and grid over them, all in level-0 pixels.

Plot coordinates are level-0 pixels with y downwards negative, so that what is drawn in them lies where it should at
every zoom.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.events import DocumentReady
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    HoverTool,
    ImageURL,
    LinearColorMapper,
    PanTool,
    Range1d,
    RangeTool,
    ResetTool,
    ScaleBar,
    Slider,
    TapTool,
    WheelZoomTool,
    WMTSTileSource,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations.dimensional import ImperialLength
from bokeh.plotting import figure

from melano_tf.slides.slide import Slide
from melano_tf.view import page_style
from melano_tf.view.deepzoom import FINER, TILE_PX, Pyramid
from melano_tf.view.overlays import Overlay, mask_map, outlines_of, overlay_map, slide_tiles, tiles_in
from melano_tf.view.picture_handlers import slide_of
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change

LAYERS = ("outlines (b)", "tissue mask (t)", "tile grid (g)")
HEIGHT = 660
OVERVIEW = 300
MOST_TILES = 3000  # rectangles drawn at once; of more, those in the window
# Both axes at one scale: the window is kept by its centre and width; y follows the frame's shape.
FIT = """
const f = main, w = f.inner_width, h = f.inner_height;
if (!(w > 0 && h > 0)) return;
const x = f.x_range, y = f.y_range, span = x.end - x.start, mid = (y.start + y.end) / 2, tall = span * h / w;
if (Math.abs((y.end - y.start) - tall) > 1e-6 * tall) y.setv({start: mid - tall / 2, end: mid + tall / 2});
"""
START = """
const f = main, w = f.inner_width, h = f.inner_height;
const place = () => {
  const w = f.inner_width, h = f.inner_height;
  if (!(w > 0 && h > 0)) { setTimeout(place, 30); return; }
  const span = Math.max(wanted[2], wanted[3] * w / h), tall = span * h / w;
  f.x_range.setv({start: wanted[0] - span / 2, end: wanted[0] + span / 2});
  f.y_range.setv({start: -wanted[1] - tall / 2, end: -wanted[1] + tall / 2});
};
place();
"""
READOUT = """
const w = main.inner_width, span = main.x_range.end - main.x_range.start;
if (!(w > 0 && span > 0)) return;
const mpp = span / w * own;
out.text = '<p class="soft">' + mpp.toPrecision(3) + ' µm/px · about ' + (10 / mpp).toPrecision(2) + 'x'
  + (power ? ' · scanned at ' + power + 'x' : '') + ' · level 0: ' + own.toPrecision(4) + ' µm/px</p>';
"""


@dataclass(frozen=True)
class Window:
    """What of the slide is shown: centre, width and least height in level-0 px (height 0: whatever the frame gives)."""

    x: float
    y: float
    width: float
    height: float = 0.0

    @classmethod
    def of(cls, page: Page, size: tuple[int, int]) -> "Window":
        """The window of the address, else the whole slide."""
        x, y, width = (page.number(name) for name in ("x", "y", "w"))
        if x is None or y is None or width is None or not width > 0:
            return cls(size[0] / 2, size[1] / 2, size[0] * 1.04, size[1] * 1.04)
        return cls(x, y, width)


class Pane:
    """One picture of a slide with what lies over it.

    Args:
        page: the page it stands in.
        run, place: the slide.
        opened: it, open.
        window: what is shown at first.
        follow: another pane whose window this one shares.
        bare: nothing but the picture, without the slide's name, for a blind reading.
    """

    def __init__(
        self,
        page: Page,
        run: Seen,
        place: int,
        opened: Slide,
        window: Window,
        follow: "Pane | None" = None,
        bare: bool = False,
    ) -> None:
        self.page, self.run, self.place, self.window = page, run, place, window
        self.size, self.mpp, self.origin = opened.size, opened.mpp, opened.origin
        self.power = opened.objective_power
        self.bare = bare
        self.tiles = slide_tiles(run, str(run.cases["case"][place]))
        self.shown = self.tiles
        self.figure: Any = self._make_figure(follow)
        self._asked = 0
        if not bare:
            self._make_layers()

    def _make_figure(self, follow: "Pane | None") -> Any:
        half = self.window.width / 2
        tall = self.window.height / 2 or half
        x_range = follow.figure.x_range if follow else Range1d(self.window.x - half, self.window.x + half)
        y_range = follow.figure.y_range if follow else Range1d(-self.window.y - tall, -self.window.y + tall)
        case = "to be read" if self.bare else str(self.run.cases["case"][self.place])
        fig = figure(
            x_range=x_range,
            y_range=y_range,
            tools="",
            height=HEIGHT,
            sizing_mode="stretch_width",
            title=f"{self.run.name}: {case}" if follow else None,
            name="beside" if follow else "stage",
            html_attributes={"aria-label": f"slide {case}", "role": "img"},
        )
        fig.axis.visible = False
        fig.grid.visible = False
        fig.toolbar.logo = None
        wheel = WheelZoomTool(zoom_on_axis=False, speed=1 / 500)
        fig.add_tools(PanTool(), wheel, ZoomInTool(factor=0.5), ZoomOutTool(factor=1.0), ResetTool())
        fig.toolbar.active_scroll = wheel
        pyramid, site = Pyramid(self.size), self.page.site
        source = WMTSTileSource(
            url=f"{site.prefix}/tile/{self.run.number}/{self.place}/{{Z}}/{{X}}/{{Y}}.jpg",
            initial_resolution=2.0**pyramid.levels,
            x_origin_offset=0,
            y_origin_offset=pyramid.world,
            min_zoom=0,
            max_zoom=pyramid.levels + FINER,
            tile_size=TILE_PX,
            wrap_around=False,
            attribution="",
        )
        fig.add_tile(source, smoothing=True)
        units = {
            "px": (1.0, "px", "pixel"),
            "µm": (1 / self.mpp[0], "µm", "micrometre"),
            "mm": (1000 / self.mpp[0], "mm", "millimetre"),
        }
        scale = ImperialLength(basis=units, ticks=[1, 2, 5, 10, 20, 50, 100, 200, 500])
        fig.add_layout(
            ScaleBar(
                range=fig.x_range,
                unit="px",
                dimensional=scale,
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
        )
        self.readout = Div(text="", sizing_mode="stretch_width")
        read = CustomJS(
            args={"main": fig, "out": self.readout, "own": self.mpp[0], "power": self.power or 0}, code=READOUT
        )
        fit = CustomJS(args={"main": fig}, code=FIT)
        for change in ("inner_width", "inner_height"):
            fig.js_on_change(change, fit)
            fig.js_on_change(change, read)
        fig.x_range.js_on_change("end", read)
        if follow is None:
            window = self.window
            wanted = [window.x, window.y, window.width, window.height]
            self.page.doc.js_on_event(DocumentReady, CustomJS(args={"main": fig, "wanted": wanted}, code=START))
        return fig

    def _make_layers(self) -> None:
        fig, (width, height) = self.figure, self.size
        self.mapper = LinearColorMapper(
            palette=list(page_style.PALETTES["viridis"]), low=0, high=1, nan_color=(0, 0, 0, 0)
        )
        empty = np.full((1, 1), np.nan, np.float32)
        extent = {"x": [0.0], "y": [-float(height)], "dw": [float(width)], "dh": [float(height)]}
        self.map_source = ColumnDataSource({"image": [empty], **extent})
        self.map = fig.image("image", "x", "y", "dw", "dh", source=self.map_source, color_mapper=self.mapper, alpha=0.5)
        self.map.name = "map"
        self.bar = ColorBar(color_mapper=self.mapper, title="", height=8, title_standoff=4, visible=False)
        fig.add_layout(self.bar, "below")
        self.mask_source = ColumnDataSource({"image": [empty], **extent})
        tissue = LinearColorMapper(palette=["#e69f00"], low=0, high=1, nan_color=(0, 0, 0, 0))
        self.mask = fig.image(
            "image", "x", "y", "dw", "dh", source=self.mask_source, color_mapper=tissue, alpha=0.35, visible=False
        )
        self.tile_source = ColumnDataSource(
            {name: [] for name in ("left", "right", "top", "bottom", "tile", "value", "at")}
        )
        self.grid = fig.quad(
            *("left", "right", "top", "bottom"),
            source=self.tile_source,
            fill_alpha=0.0,
            line_color="#202020",
            line_alpha=0.0,
            line_width=1,
            selection_line_color="#d55e00",
            selection_line_alpha=1.0,
            selection_line_width=3,
            nonselection_fill_alpha=0.0,
            nonselection_line_alpha=0.0,
            hover_line_color="#d55e00",
            hover_line_alpha=1.0,
            name="grid",
        )
        self.hover = HoverTool(
            renderers=[self.grid], tooltips=[("tile", "@tile"), ("value", "@value{0.0000}"), ("", "@at")]
        )
        self.tap = TapTool(renderers=[self.grid])
        fig.add_tools(self.hover, self.tap)
        self.marked = ColumnDataSource({name: [] for name in ("left", "right", "top", "bottom")})
        fig.quad(
            *("left", "right", "top", "bottom"), source=self.marked, fill_alpha=0, line_color="#d55e00", line_width=3
        )
        self.cam_source = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.cam = fig.image(
            *("image", "x", "y", "dw", "dh"),
            source=self.cam_source,
            color_mapper=LinearColorMapper(palette=list(page_style.PALETTES["inferno"]), low=0, high=1),
            alpha=0.55,
        )
        self._outlines()
        on_change(fig.x_range, "end", self._moved)

    def _outlines(self) -> None:
        found = outlines_of(self.run.cases["annotation"][self.place], self.origin)
        self.outline_fault = found.fault
        self.outlines = []
        for colour, (name, polygons) in zip(page_style.COLOURS * 9, found.rings.items(), strict=False):
            xs = [[[ring[:, 0].tolist() for ring in parts]] for parts in polygons]
            ys = [[[(-ring[:, 1]).tolist() for ring in parts]] for parts in polygons]
            drawn = self.figure.multi_polygons(
                xs, ys, fill_alpha=0.0, line_color=colour, line_width=2, legend_label=name, name=f"outline {name}"
            )
            self.outlines.append(drawn)
        if self.outlines:
            self.figure.legend.location = "top_left"
            self.figure.legend.background_fill_alpha = 0.8

    def fade_with(self, slider: Slider) -> None:
        """Let a slider set how opaque the map is."""
        self.map.glyph.global_alpha = slider.value
        slider.js_link("value", self.map.glyph, "global_alpha")

    def draw(self, overlay: Overlay | None, palette: Sequence[str], failed: Callable[[str], None]) -> None:
        """Draw a map, made aside; None: none."""
        self._asked += 1
        asked = self._asked
        self.shown = self.tiles if overlay is None else overlay.tiles
        self._moved()
        if overlay is None:
            self.map.visible = self.bar.visible = False
            return
        self.bar.title = overlay.words
        site, run, place, size, mpp = self.page.site, self.run, self.place, self.size, self.mpp

        def work() -> np.ndarray:
            return overlay_map(overlay, size, mpp, site.masks.get(run, slide_of(site, run, place)))

        def done(found: np.ndarray) -> None:
            if asked == self._asked:  # else another one was asked for meanwhile
                self.map_source.data = {**self.map_source.data, "image": [np.flipud(found)]}
                self.map.visible = self.bar.visible = True

        self.page.later(work, done, lambda words: failed(f"the map cannot be drawn: {words}"))

    def colour(self, palette: Sequence[str], threshold: float | None) -> None:
        """The colours of the map; below a threshold they are pale."""
        count = len(palette)
        low = 0 if threshold is None else min(count, math.ceil(threshold * count))
        self.mapper.palette = [shade + "38" if place < low else shade for place, shade in enumerate(palette)]

    def layers(self, active: Sequence[int], failed: Callable[[str], None]) -> None:
        """Show outlines, tissue mask and grid, or not."""
        for drawn in self.outlines:
            drawn.visible = 0 in active
        if 0 in active and self.outline_fault:
            failed(self.outline_fault)
        if 1 in active and self.mask_source.data["image"][0].size == 1:
            site, run, place, size, mpp = self.page.site, self.run, self.place, self.size, self.mpp

            def done(found: np.ndarray) -> None:
                self.mask_source.data = {**self.mask_source.data, "image": [np.flipud(found)]}

            self.page.later(
                lambda: mask_map(site.masks.get(run, slide_of(site, run, place)), size, mpp),
                done,
                lambda words: failed(f"the tissue mask cannot be drawn: {words}"),
            )
        self.mask.visible = 1 in active
        alpha = 0.55 if 2 in active else 0.0
        self.grid.glyph.line_alpha = alpha
        self.grid.nonselection_glyph.line_alpha = alpha

    def _moved(self) -> None:
        """The tiles of the window, where there are too many for all."""
        rows = self.shown
        if len(rows) > MOST_TILES:
            x, y = self.figure.x_range, self.figure.y_range
            rows = tiles_in(rows, x.start, -y.end, x.end, -y.start)
            if len(rows) > MOST_TILES:
                rows = rows.iloc[:0]
        tiles = rows["tile"].tolist()
        if tiles == list(self.tile_source.data["tile"]) and "value" not in rows:
            return
        values = rows["raw"].to_numpy(float) if "raw" in rows else np.full(len(rows), np.nan)
        self.tile_source.data = {
            "left": rows["x"].to_numpy(float),
            "right": (rows["x"] + rows["w0"]).to_numpy(float),
            "top": -rows["y"].to_numpy(float),
            "bottom": -(rows["y"] + rows["h0"]).to_numpy(float),
            "tile": tiles,
            "value": values,
            "at": rows["magnification"].tolist(),
        }

    def fly(self, x: float, y: float, width: float) -> None:
        """Show a place: centre and width in level-0 px."""
        shape = (self.figure.inner_height or HEIGHT) / (self.figure.inner_width or HEIGHT)
        self.figure.x_range.update(start=x - width / 2, end=x + width / 2)
        self.figure.y_range.update(start=-y - width * shape / 2, end=-y + width * shape / 2)

    def mark(self, x: float, y: float, w: float, h: float) -> None:
        """Draw a frame around a tile."""
        self.marked.data = {"left": [x], "right": [x + w], "top": [-y], "bottom": [-(y + h)]}

    def on_tile(self, then: Callable[[int], None]) -> None:
        """Do something with a clicked tile: its place in `shown`."""

        def clicked(name: str, old: list[int], new: list[int]) -> None:
            if new:
                number = self.tile_source.data["tile"][new[0]]
                at = self.tile_source.data["at"][new[0]]
                rows = self.shown
                found = np.flatnonzero((rows["tile"] == number) & (rows["magnification"] == at))
                then(int(found[0]))

        self.tile_source.selected.on_change("indices", clicked)


def overview_figure(page: Page, run: Seen, place: int, pane: Pane) -> figure:
    """The whole slide, small, with the window in it, which can be dragged."""
    width, height = pane.size
    ratio = height / width
    size = (OVERVIEW, max(60, round(OVERVIEW * ratio))) if ratio <= 0.8 else (max(60, round(240 / ratio)), 240)
    fig = figure(
        x_range=Range1d(0, width),
        y_range=Range1d(-height, 0),
        width=size[0],
        height=size[1],
        tools="",
        toolbar_location=None,
        min_border=0,
        html_attributes={"aria-label": "overview of the slide with the window in it", "role": "img"},
    )
    fig.axis.visible = False
    fig.grid.visible = False
    address = f"{page.site.prefix}/overview/{run.number}/{place}.jpg"
    picture = ImageURL(url={"value": address}, x=0, y=0, w=float(width), h=float(height), anchor="top_left")
    fig.add_glyph(ColumnDataSource({"one": [0]}), picture)
    tool = RangeTool(x_range=pane.figure.x_range, y_range=pane.figure.y_range, start_gesture="none")
    tool.overlay.fill_color, tool.overlay.fill_alpha = "#d55e00", 0.12
    tool.overlay.line_color, tool.overlay.line_width = "#d55e00", 2
    fig.add_tools(tool)
    return fig
